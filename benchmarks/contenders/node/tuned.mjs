// Fastify as a good team writes it: prepared statement, pool, pipelining, serialisation by schema. Requests share nothing.
import { groupByPlace, keysOf, serve, statement } from './brief.mjs'

const TEXT = statement('= $1')

await serve((database, redis) => ({
  loadPlace: async (id) => {
    const { rows } = await database.query({ name: 'brief', text: TEXT, values: [id], rowMode: 'array' })
    return groupByPlace(rows).get(id)
  },
  loadCached: (id) => redis.mget(keysOf(id))
}))
