// The clients of the backends, opened once per process.
import amqplib from 'amqplib'
import Redis from 'ioredis'
import pg from 'pg'
import { Agent } from 'undici'

const { env } = process

// Keep times as text and parse ids as numbers: Date and BigInt objects would only be converted back.
pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, (text) => text.replace(' ', 'T').replace('+00', 'Z'))
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

export const openDatabase = () =>
  new pg.Pool({ connectionString: env.GATEWAY_DATABASE__URL.replace('+asyncpg', ''), max: 10, min: 10 })

export const openRedis = () => new Redis(env.GATEWAY_REDIS__URL, { enableAutoPipelining: true })

/** Return a function that takes a path and resolves to the JSON of the upstream's response. */
export const openUpstream = () => {
  const agent = new Agent({ connections: 50, keepAliveTimeout: 60_000 })
  return async (path) => {
    const { statusCode, body } = await agent.request({ origin: env.GATEWAY_HTTP__WEATHER_URL, path, method: 'GET' })
    const content = await body.json()
    if (statusCode !== 200) throw new Error(`upstream: ${statusCode}`)
    return content
  }
}

/** Return a function that publishes an event and resolves when the broker has confirmed it. */
export const openPublisher = async () => {
  const connection = await amqplib.connect(env.GATEWAY_RABBITMQ__URL)
  const channel = await connection.createConfirmChannel()
  return (id, type, body) =>
    new Promise((resolve, reject) => {
      const options = { persistent: true, mandatory: true, contentType: 'application/json', type, messageId: id }
      channel.publish('gateway.events', type, Buffer.from(body), options, (error) => (error ? reject(error) : resolve()))
    })
}
