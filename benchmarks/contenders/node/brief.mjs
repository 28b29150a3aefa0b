// The route of the brief.
import { OBSERVATION, PLACE_ID, integer, number, object, orNull, text } from './schemas.mjs'
import { weatherKey } from './weather.mjs'

const VIEW_FLUSH_INTERVAL = 250 // milliseconds

const PLACE_COLUMNS = ['id', 'name', 'ascii_name', 'country_code', 'admin1_code', 'latitude', 'longitude', 'population', 'timezone', 'observation_count']
const OBSERVATION_COLUMNS = Object.keys(OBSERVATION.properties)

/** Return the statement for the places that meet a condition, with the latest observations of each. */
export const selectBriefs = (condition) => `
  SELECT ${PLACE_COLUMNS.map((name) => `places.${name}`)}, ${OBSERVATION_COLUMNS.map((name) => `latest.${name}`)}
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

/** The keys in Redis for a place: its weather and its views. */
export const keysOf = (id) => [weatherKey(id), `popularity:${id}`]

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
    observations: section({ type: 'array', items: OBSERVATION }),
    popularity: section(object({ views: integer }))
  })
})

/** Return a function that counts a view. The counts are published together at an interval. */
const startCountingViews = (publish) => {
  let views = new Map()
  setInterval(() => {
    if (views.size === 0) return
    const id = crypto.randomUUID()
    const data = { views: Object.fromEntries(views) }
    views = new Map()
    publish(id, 'brief.viewed', JSON.stringify({ id, type: 'brief.viewed', at: new Date().toISOString(), data })).catch(() => {})
  }, VIEW_FLUSH_INTERVAL)
  return (placeId) => views.set(placeId, (views.get(placeId) ?? 0) + 1)
}

/** Return a function that calls `load` at most once at a time for each place. */
const singleFlight = (load) => {
  const inFlight = new Map()
  return (place) => {
    let result = inFlight.get(place.id)
    if (result === undefined) {
      result = load(place).finally(() => inFlight.delete(place.id))
      inFlight.set(place.id, result)
    }
    return result
  }
}

/**
 * Add the route. `loadPlace` takes an id and resolves to its entry of `groupByPlace`; `loadCached` takes an id and resolves to
 * the values of `keysOf`; `loadWeather` takes a place and resolves to its entry of `fetchWeather`.
 */
export const addBriefRoute = (app, publish, { loadPlace, loadCached, loadWeather }) => {
  const countView = startCountingViews(publish)
  const loadWeatherOnce = singleFlight(loadWeather)
  app.get('/v1/places/:id/brief', { schema: { params: PLACE_ID, response: { 200: BRIEF } } }, async (request, reply) => {
    const startedAt = performance.now()
    const id = request.params.id
    const [entry, [cachedWeather, views]] = await Promise.all([loadPlace(id), loadCached(id)])
    if (entry === undefined) return reply.code(404).send({ title: 'Not Found', status: 404 })
    const loadedAfter = performance.now() - startedAt
    const { fetched_at: fetchedAt, weather } = cachedWeather ? JSON.parse(cachedWeather) : await loadWeatherOnce(entry.place)
    const ok = (age_s, took_ms, data) => ({ status: 'ok', reason: null, age_s, took_ms, data })
    const age = Math.max(0, Date.now() / 1000 - fetchedAt)
    countView(id)
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
}
