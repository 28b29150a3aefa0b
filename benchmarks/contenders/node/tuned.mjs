// Fastify as a good team writes it: prepared statement, pooled, pipelined, serialised by schema. Each request asks for itself.
import { group, keysOf, serve, statement } from './brief.mjs'

const TEXT = statement('= $1')

await serve((database, redis) => ({
  rows: async (id) => {
    const { rows } = await database.query({ name: 'brief', text: TEXT, values: [id], rowMode: 'array' })
    return group(rows).get(id)
  },
  kept: (id) => redis.mget(keysOf(id))
}))
