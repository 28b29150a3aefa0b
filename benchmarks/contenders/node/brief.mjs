// Shared by both Fastify contenders: the response schema, the SQL statement, the weather and the views.
import amqplib from 'amqplib'
import Fastify from 'fastify'
import Redis from 'ioredis'
import pg from 'pg'
import { Agent } from 'undici'

const FRESH_TTL = 60 // seconds
const VIEW_FLUSH_INTERVAL = 250 // milliseconds
const { env } = process

// Keep times as text and parse ids as numbers: Date and BigInt objects would only be converted back.
pg.types.setTypeParser(pg.types.builtins.TIMESTAMPTZ, (text) => text.replace(' ', 'T').replace('+00', 'Z'))
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

const PLACE = ['id', 'name', 'ascii_name', 'country_code', 'admin1_code', 'latitude', 'longitude', 'population', 'timezone', 'observation_count']
const OBSERVATION = ['id', 'place_id', 'temperature_c', 'condition', 'note', 'created_at', 'observed_at']

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
  id: r[10], place_id: r[11], temperature_c: r[12], condition: r[13], note: r[14], created_at: r[15], observed_at: r[16]
})

/** Return the place and its observations for each place id in the rows. */
export const groupByPlace = (rows) => {
  const places = new Map()
  for (const row of rows) {
    let entry = places.get(row[0])
    if (entry === undefined) places.set(row[0], (entry = { place: placeOf(row), observations: [] }))
    if (row[10] !== null) entry.observations.push(observationOf(row))
  }
  return places
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
        date: text, precipitation_mm: number, temperature_max_c: number, temperature_min_c: number,
        wind_speed_m_s: number, wind_speed_max_m_s: number
      })
    })),
    outlook: section(object({ wet_tomorrow_probability: number })),
    observations: section({
      type: 'array',
      items: object({
        id: integer, place_id: integer, temperature_c: number, condition: text, note: orNull(text), created_at: text,
        observed_at: orNull(text)
      })
    }),
    popularity: section(object({ views: integer }))
  })
})

const VARIABLES =
  'current=temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m' +
  '&daily=precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max' +
  '&wind_speed_unit=ms&timezone=auto&forecast_days=1'

/** Return the offset from UTC as in RFC 3339. */
const offsetOf = (seconds) => {
  if (seconds === 0) return 'Z'
  const minutes = Math.abs(seconds) / 60
  const two = (number) => String(number).padStart(2, '0')
  return `${seconds < 0 ? '-' : '+'}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`
}

const weatherOf = ({ utc_offset_seconds: offset, current, daily }) => ({
  observed_at: `${current.time}:00${offsetOf(offset)}`,
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
    wind_speed_m_s: daily.wind_speed_10m_mean[0],
    wind_speed_max_m_s: daily.wind_speed_10m_max[0]
  }
})

/** Return a function that counts a view. The counts are published together at an interval. */
const openViewPublisher = async (url) => {
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
  }, VIEW_FLUSH_INTERVAL)
  return (placeId) => views.set(placeId, (views.get(placeId) ?? 0) + 1)
}

/**
 * Serve briefs. `makeLoaders` takes the PostgreSQL pool and the Redis client and returns two functions of a place id:
 * `loadPlace` resolves to the place's entry of `groupByPlace`, `loadCached` to the weather and the views in Redis.
 */
export const serve = async (makeLoaders) => {
  const database = new pg.Pool({ connectionString: env.GATEWAY_DATABASE__URL.replace('+asyncpg', ''), max: 10, min: 10 })
  const redis = new Redis(env.GATEWAY_REDIS__URL, { enableAutoPipelining: true })
  const upstream = new Agent({ connections: 50, keepAliveTimeout: 60_000 })
  const recordView = await openViewPublisher(env.GATEWAY_RABBITMQ__URL)
  const { loadPlace, loadCached } = makeLoaders(database, redis)
  const fetches = new Map()

  const fetchWeather = async ({ id, latitude, longitude }) => {
    const path = `/v1/forecast?latitude=${latitude.toFixed(5)}&longitude=${longitude.toFixed(5)}&${VARIABLES}`
    const { statusCode, body } = await upstream.request({ origin: env.GATEWAY_HTTP__WEATHER_URL, path, method: 'GET' })
    const forecast = await body.json()
    if (statusCode !== 200) throw new Error(`upstream: ${statusCode}`)
    const entry = { fetched_at: Date.now() / 1000, weather: weatherOf(forecast) }
    redis.set(`peer:weather:${id}`, JSON.stringify(entry), 'EX', FRESH_TTL).catch(() => {})
    return entry
  }
  /** Fetch the weather, at most once at a time for each place. */
  const fetchWeatherOnce = (place) => {
    let fetch = fetches.get(place.id)
    if (fetch === undefined) {
      fetch = fetchWeather(place).finally(() => fetches.delete(place.id))
      fetches.set(place.id, fetch)
    }
    return fetch
  }

  const app = Fastify({ logger: false })
  app.get('/v1/places/:id/brief', { schema: { params: object({ id: integer }), response: { 200: BRIEF } } }, async (request, reply) => {
    const startedAt = performance.now()
    const id = request.params.id
    const [entry, [cachedWeather, views]] = await Promise.all([loadPlace(id), loadCached(id)])
    if (entry === undefined) return reply.code(404).send({ title: 'Not Found', status: 404 })
    const loadedAfter = performance.now() - startedAt
    const { fetched_at: fetchedAt, weather } = cachedWeather ? JSON.parse(cachedWeather) : await fetchWeatherOnce(entry.place)
    const ok = (age_s, took_ms, data) => ({ status: 'ok', reason: null, age_s, took_ms, data })
    const age = Math.max(0, Date.now() / 1000 - fetchedAt)
    recordView(id)
    reply.header('gateway-complete', 'true').header('x-request-id', request.id)
    return {
      place: entry.place,
      complete: true,
      sections: {
        weather: ok(age, performance.now() - startedAt, weather),
        outlook: ok(age, 0, { wet_tomorrow_probability: 0.25 }), // no model: less work than in the gateway
        observations: ok(0, loadedAfter, entry.observations),
        popularity: ok(0, loadedAfter, { views: Number(views ?? 0) })
      }
    }
  })
  await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) })
  process.on('SIGTERM', () => process.exit(0))
}

export const keysOf = (id) => [`peer:weather:${id}`, `popularity:${id}`]
