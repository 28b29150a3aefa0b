// The same with the gateway's batching: concurrent requests share one statement and one Redis command.
import { groupByPlace, keysOf, serve, statement } from './brief.mjs'

const TEXT = statement('= ANY($1)')
const MAX_BATCHES_IN_FLIGHT = 2
const MAX_BATCH_SIZE = 100

/** Load all ids of one loop iteration in one call. While the maximum of batches is in flight, further ids wait. */
const batcher = (load) => {
  let queue = []
  let inFlight = 0
  let scheduled = false

  const scheduleFlush = () => {
    if (scheduled || queue.length === 0 || inFlight >= MAX_BATCHES_IN_FLIGHT) return
    scheduled = true
    setImmediate(flush)
  }
  const flush = async () => {
    scheduled = false
    const batch = queue.splice(0, MAX_BATCH_SIZE)
    inFlight += 1
    scheduleFlush()
    try {
      const results = await load([...new Set(batch.map((call) => call.id))])
      for (const call of batch) call.resolve(results.get(call.id))
    } catch (error) {
      for (const call of batch) call.reject(error)
    } finally {
      inFlight -= 1
      scheduleFlush()
    }
  }
  return (id) =>
    new Promise((resolve, reject) => {
      queue.push({ id, resolve, reject })
      scheduleFlush()
    })
}

await serve((database, redis) => ({
  loadPlace: batcher(async (ids) => {
    const { rows } = await database.query({ name: 'briefs', text: TEXT, values: [ids], rowMode: 'array' })
    return groupByPlace(rows)
  }),
  loadCached: batcher(async (ids) => {
    const values = await redis.mget(ids.flatMap(keysOf))
    return new Map(ids.map((id, index) => [id, [values[2 * index], values[2 * index + 1]]]))
  })
}))
