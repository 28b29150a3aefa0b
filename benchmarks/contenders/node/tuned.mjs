// Fastify as a good team writes it: prepared statements, pool, pipelining, serialisation by schema. Requests share nothing.
import { groupByPlace, keysOf, selectBriefs } from './brief.mjs'
import { storeOne } from './observations.mjs'
import { serve } from './serve.mjs'
import { fetchWeather } from './weather.mjs'

const SELECT_BRIEF = selectBriefs('= $1')

await serve((database, redis, upstream) => ({
  loadPlace: async (id) => {
    const { rows } = await database.query({ name: 'brief', text: SELECT_BRIEF, values: [id], rowMode: 'array' })
    return groupByPlace(rows).get(id)
  },
  loadCached: (id) => redis.mget(keysOf(id)),
  loadWeather: async (place) => (await fetchWeather(upstream, redis, [place]))[0],
  store: (report) => storeOne(database, report)
}))
