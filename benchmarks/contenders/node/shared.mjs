// The same with the gateway's batching: concurrent requests share statements, transactions, Redis commands and upstream calls.
import { batcher } from './batcher.mjs'
import { groupByPlace, keysOf, selectBriefs } from './brief.mjs'
import { storeMany } from './observations.mjs'
import { serve } from './serve.mjs'
import { fetchWeather } from './weather.mjs'

const SELECT_BRIEFS = selectBriefs('= ANY($1)')

await serve((database, redis, upstream) => ({
  loadPlace: batcher(async (ids) => {
    const { rows } = await database.query({ name: 'briefs', text: SELECT_BRIEFS, values: [[...new Set(ids)]], rowMode: 'array' })
    const places = groupByPlace(rows)
    return ids.map((id) => places.get(id))
  }, { maxInFlight: 2, maxSize: 100 }),
  loadCached: batcher(async (ids) => {
    const values = await redis.mget(ids.flatMap(keysOf))
    return ids.map((_, index) => [values[2 * index], values[2 * index + 1]])
  }, { maxInFlight: 2, maxSize: 100 }),
  loadWeather: batcher((places) => fetchWeather(upstream, redis, places), { maxInFlight: 2, maxSize: 50 }),
  store: batcher((reports) => storeMany(database, reports), { maxInFlight: 1, maxSize: 100 })
}))
