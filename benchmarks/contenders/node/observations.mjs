// The route that stores an observation with its event, once for each idempotency key.
import { OBSERVATION, PLACE_ID, orNull, text } from './schemas.mjs'

const CONDITIONS = [
  'sun', 'clear', 'partly_cloudy', 'cloudy', 'overcast', 'smoke', 'haze', 'dust', 'mist', 'fog', 'drizzle', 'freezing_drizzle',
  'rain', 'freezing_rain', 'sleet', 'snow', 'ice_pellets', 'showers', 'snow_showers', 'hail', 'thunderstorm'
]
const REPORT = {
  type: 'object',
  properties: {
    temperature_c: { type: 'number', minimum: -100, maximum: 70 },
    condition: { ...text, enum: CONDITIONS },
    note: orNull({ ...text, maxLength: 1000 }),
    observed_at: orNull({ ...text, format: 'date-time' })
  },
  required: ['temperature_c', 'condition'],
  additionalProperties: false
}
const HEADERS = { type: 'object', properties: { 'idempotency-key': { ...text, minLength: 1, maxLength: 255, pattern: '^[!-~]+$' } } }

const FOREIGN_KEY_VIOLATION = '23503'

// One statement, and so one transaction: the rows and their events. Nothing is stored for a key that was used before, or that
// another transaction holds now.
const insertInto = (reports) => `
  WITH report (place_id, temperature_c, condition, note, observed_at, key, position) AS (${reports}), stored AS (
    INSERT INTO observations (place_id, temperature_c, condition, note, observed_at, idempotency_key)
    SELECT place_id, temperature_c, condition, note, observed_at, key FROM report
    WHERE key IS NULL OR pg_try_advisory_xact_lock(hashtextextended(key, 0))
    ORDER BY position
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, place_id, created_at, observed_at, idempotency_key
  ), event AS MATERIALIZED (
    SELECT gen_random_uuid() AS id, id AS observation_id, place_id FROM stored
  ), queued AS (
    INSERT INTO outbox (event_id, type, body)
    SELECT id, 'observation.reported', json_build_object('id', id, 'type', 'observation.reported', 'at', now(),
      'data', json_build_object('observation_id', observation_id, 'place_id', place_id))
    FROM event
  )
  SELECT id, created_at, observed_at, idempotency_key FROM stored`

const INSERT_ONE = insertInto('SELECT $1::integer, $2::float8, $3::text, $4::text, $5::timestamptz, $6::text, 1')
const INSERT_MANY = insertInto(
  'SELECT * FROM unnest($1::integer[], $2::float8[], $3::text[], $4::text[], $5::timestamptz[], $6::text[]) WITH ORDINALITY')
const BY_KEY = `SELECT ${Object.keys(OBSERVATION.properties)} FROM observations WHERE idempotency_key = $1`

const valuesOf = (r) => [r.place_id, r.temperature_c, r.condition, r.note, r.observed_at, r.key]
const storedOf = (report, [id, created_at, observed_at]) => ({ ...report, id, created_at, observed_at })

/** Store a report. Resolves to the observation, or to undefined if its key was used before or is in use. */
export const storeOne = async (database, report) => {
  const { rows } = await database.query({ name: 'store', text: INSERT_ONE, values: valuesOf(report), rowMode: 'array' })
  return rows.length === 0 ? undefined : storedOf(report, rows[0])
}

/** Store reports in one transaction. Resolves to the result of `storeOne` for each of them, which may be a promise. */
export const storeMany = async (database, reports) => {
  if (reports.length === 1) return [await storeOne(database, reports[0])]
  const rowValues = reports.map(valuesOf)
  const values = rowValues[0].map((_, column) => rowValues.map((row) => row[column]))
  let rows
  try {
    ({ rows } = await database.query({ name: 'store many', text: INSERT_MANY, values, rowMode: 'array' }))
  } catch (error) {
    if (!error.code?.startsWith('23')) throw error
    return reports.map((report) => storeOne(database, report)) // one of them violates a constraint
  }
  // Rows with a key are found by it. Those without a key are all stored, in their order.
  const withoutKey = rows.filter((row) => row[3] === null)[Symbol.iterator]()
  const byKey = new Map(rows.map((row) => [row[3], row]))
  return reports.map((report) => {
    const row = report.key === null ? withoutKey.next().value : byKey.get(report.key)
    byKey.delete(report.key) // a second report with the key is a replay
    return row === undefined ? undefined : storedOf(report, row)
  })
}

const isEqual = (report, stored) =>
  report.temperature_c === stored.temperature_c && report.condition === stored.condition && report.note === stored.note &&
  (report.observed_at && Date.parse(report.observed_at)) === (stored.observed_at && Date.parse(stored.observed_at))

/** Add the route. `store` takes a report and resolves as `storeOne` does; `onStored` is called after each commit. */
export const addObservationRoute = (app, database, store, onStored) => {
  const schema = { params: PLACE_ID, headers: HEADERS, body: REPORT, response: { 201: OBSERVATION } }
  app.post('/v1/places/:id/observations', { schema }, async (request, reply) => {
    const { id } = request.params
    const { temperature_c, condition, note = null, observed_at = null } = request.body
    const key = request.headers['idempotency-key']
    const report = { place_id: id, temperature_c, condition, note, observed_at, key: key === undefined ? null : ` ${id} ${key}` }
    const fail = (status, title) => reply.code(status).send({ title, status })
    let observation
    try {
      observation = await store(report)
    } catch (error) {
      if (error.code === FOREIGN_KEY_VIOLATION) return fail(404, 'Unknown place')
      throw error
    }
    if (observation === undefined) {
      observation = (await database.query({ name: 'by key', text: BY_KEY, values: [report.key] })).rows[0]
      if (observation === undefined) return fail(409, 'Report in progress')
      if (!isEqual(report, observation)) return fail(422, 'Idempotency key reused')
      reply.header('idempotency-replayed', 'true')
    } else {
      onStored()
    }
    reply.code(201).header('location', `/v1/places/${id}/observations/${observation.id}`).header('x-request-id', request.id)
    return observation
  })
}
