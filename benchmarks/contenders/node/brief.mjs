// What both peers have in common: the schema of the answer, the statement, the weather and the views.
import amqplib from 'amqplib'
import Fastify from 'fastify'
import Redis from 'ioredis'
import pg from 'pg'
import { Agent } from 'undici'

const FRESH_FOR = 60 // seconds
const VIEWS_EVERY = 250 // milliseconds
const { env } = process

// Times stay text, and ids numbers: an object for each would only be turned back.
pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, (text) => text.replace(' ', 'T').replace('+00', 'Z'))
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

const PLACE = ['id', 'name', 'ascii_name', 'country_code', 'admin1_code', 'latitude', 'longitude', 'population', 'timezone', 'observation_count']
const OBSERVATION = ['id', 'place_id', 'temperature_c', 'condition', 'note', 'created_at']

export const statement = (condition) => `
  SELECT ${PLACE.map((name) => `places.${name}`)}, ${OBSERVATION.map((name) => `latest.${name}`)}
  FROM places LEFT JOIN LATERAL (
    SELECT * FROM observations WHERE place_id = places.id ORDER BY created_at DESC, id DESC LIMIT 5
  ) latest ON true
  WHERE places.id ${condition}
  ORDER BY places.id, latest.created_at DESC, latest.id DESC`

const placeOf = (r) => ({
  id: r[0], name: r[1], ascii_name: r[2], country_code: r[3], admin1_code: r[4],
  latitude: r[5], longitude: r[6], population: r[7], timezone: r[8], observation_count: r[9]
})
const observationOf = (r) => ({
  id: r[10], place_id: r[11], temperature_c: r[12], condition: r[13], note: r[14], created_at: r[15]
})

/** The rows of one or several places, by the place's id. */
export const group = (rows) => {
  const known = new Map()
  for (const row of rows) {
    let one = known.get(row[0])
    if (one === undefined) known.set(row[0], (one = { place: placeOf(row), observations: [] }))
    if (row[10] !== null) one.observations.push(observationOf(row))
  }
  return known
}

const text = { type: 'string' }
const number = { type: 'number' }
const integer = { type: 'integer' }
const orNull = (schema) => ({ ...schema, nullable: true })
const object = (properties) => ({ type: 'object', properties, required: Object.keys(properties) })
const section = (data) =>
  object({ status: text, reason: orNull(text), age_s: number, took_ms: number, data })

const BRIEF = object({
  place: object({
    id: integer, name: text, ascii_name: text, country_code: text, admin1_code: text,
    latitude: number, longitude: number, population: integer, timezone: text, observation_count: integer
  }),
  complete: { type: 'boolean' },
  sections: object({
    weather: section(object({
      observed_at: text, temperature_c: number, relative_humidity_percent: number, precipitation_mm: number,
      weather_code: integer, wind_speed_m_s: number,
      today: object({
        date: text, precipitation_mm: number, temperature_max_c: number, temperature_min_c: number, wind_speed_max_m_s: number
      })
    })),
    outlook: section(object({ wet_tomorrow_probability: number })),
    observations: section({
      type: 'array',
      items: object({
        id: integer, place_id: integer, temperature_c: number, condition: text, note: orNull(text), created_at: text
      })
    }),
    popularity: section(object({ views: integer }))
  })
})

const VARIABLES =
  'current=temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m' +
  '&daily=precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_max' +
  '&wind_speed_unit=ms&timezone=auto&forecast_days=1'

const weatherOf = ({ current, daily }) => ({
  observed_at: current.time,
  temperature_c: current.temperature_2m,
  relative_humidity_percent: current.relative_humidity_2m,
  precipitation_mm: current.precipitation,
  weather_code: current.weather_code,
  wind_speed_m_s: current.wind_speed_10m,
  today: {
    date: daily.time[0],
    precipitation_mm: daily.precipitation_sum[0],
    temperature_max_c: daily.temperature_2m_max[0],
    temperature_min_c: daily.temperature_2m_min[0],
    wind_speed_max_m_s: daily.wind_speed_10m_max[0]
  }
})

/** Views, counted here and published together. */
const openViews = async (url) => {
  const connection = await amqplib.connect(url)
  const channel = await connection.createConfirmChannel()
  let views = new Map()
  setInterval(() => {
    if (views.size === 0) return
    const body = {
      id: crypto.randomUUID(), type: 'brief.viewed', at: new Date().toISOString(),
      data: { views: Object.fromEntries(views) }
    }
    views = new Map()
    channel.publish('gateway.events', 'brief.viewed', Buffer.from(JSON.stringify(body)), {
      persistent: true, mandatory: true, contentType: 'application/json', type: body.type, messageId: body.id
    }, () => {})
  }, VIEWS_EVERY)
  return (placeId) => views.set(placeId, (views.get(placeId) ?? 0) + 1)
}

/**
 * Serve briefs. `ask` makes the two questions of one place of a pool and a Redis client: `rows(id)` resolves to what
 * `group` makes of it, `kept(id)` to the weather and the views that Redis has.
 */
export const serve = async (ask) => {
  const database = new pg.Pool({ connectionString: env.GATEWAY_DATABASE__URL.replace('+asyncpg', ''), max: 10, min: 10 })
  const redis = new Redis(env.GATEWAY_REDIS__URL, { enableAutoPipelining: true })
  const upstream = new Agent({ connections: 50, keepAliveTimeout: 60_000 })
  const viewed = await openViews(env.GATEWAY_RABBITMQ__URL)
  const { rows, kept } = ask(database, redis)
  const flights = new Map()

  const fetchWeather = async ({ id, latitude, longitude }) => {
    const path = `/v1/forecast?latitude=${latitude.toFixed(5)}&longitude=${longitude.toFixed(5)}&${VARIABLES}`
    const { statusCode, body } = await upstream.request({ origin: env.GATEWAY_HTTP__WEATHER_URL, path, method: 'GET' })
    const answer = await body.json()
    if (statusCode !== 200) throw new Error(`upstream: ${statusCode}`)
    const found = { fetched_at: Date.now() / 1000, weather: weatherOf(answer) }
    redis.set(`peer:weather:${id}`, JSON.stringify(found), 'EX', FRESH_FOR).catch(() => {})
    return found
  }
  const onceFor = (place) => {
    let flight = flights.get(place.id)
    if (flight === undefined) {
      flight = fetchWeather(place).finally(() => flights.delete(place.id))
      flights.set(place.id, flight)
    }
    return flight
  }

  const app = Fastify({ logger: false })
  app.get('/v1/places/:id/brief', { schema: { params: object({ id: integer }), response: { 200: BRIEF } } }, async (request, reply) => {
    const began = performance.now()
    const id = request.params.id
    const [known, [remembered, views]] = await Promise.all([rows(id), kept(id)])
    if (known === undefined) return reply.code(404).send({ title: 'Not Found', status: 404 })
    const asked = performance.now() - began
    const found = remembered ? JSON.parse(remembered) : await onceFor(known.place)
    const ok = (age_s, took_ms, data) => ({ status: 'ok', reason: null, age_s, took_ms, data })
    const age = Math.max(0, Date.now() / 1000 - found.fetched_at)
    viewed(id)
    reply.header('gateway-complete', 'true').header('x-request-id', request.id)
    return {
      place: known.place,
      complete: true,
      sections: {
        weather: ok(age, performance.now() - began, found.weather),
        outlook: ok(age, 0, { wet_tomorrow_probability: 0.25 }), // no model here: the peer does less than we do
        observations: ok(0, asked, known.observations),
        popularity: ok(0, asked, { views: Number(views ?? 0) })
      }
    }
  })
  await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) })
  process.on('SIGTERM', () => process.exit(0))
}

export const keysOf = (id) => [`peer:weather:${id}`, `popularity:${id}`]
