// The same with our own idea: requests that arrive together share one statement and one command to Redis.
import { group, keysOf, serve, statement } from './brief.mjs'

const TEXT = statement('= ANY($1)')
const AT_ONCE = 2
const MOST = 100

/** Ask once for all that is wanted in one turn of the event loop; what comes while two batches are under way waits. */
const batcher = (load) => {
  let waiting = []
  let underWay = 0
  let scheduled = false

  const soon = () => {
    if (scheduled || waiting.length === 0 || underWay >= AT_ONCE) return
    scheduled = true
    setImmediate(send)
  }
  const send = async () => {
    scheduled = false
    const batch = waiting.splice(0, MOST)
    underWay += 1
    soon()
    try {
      const found = await load([...new Set(batch.map((one) => one.id))])
      for (const one of batch) one.resolve(found.get(one.id))
    } catch (error) {
      for (const one of batch) one.reject(error)
    } finally {
      underWay -= 1
      soon()
    }
  }
  return (id) =>
    new Promise((resolve, reject) => {
      waiting.push({ id, resolve, reject })
      soon()
    })
}

await serve((database, redis) => ({
  rows: batcher(async (ids) => {
    const { rows } = await database.query({ name: 'briefs', text: TEXT, values: [ids], rowMode: 'array' })
    return group(rows)
  }),
  kept: batcher(async (ids) => {
    const values = await redis.mget(ids.flatMap(keysOf))
    return new Map(ids.map((id, at) => [id, [values[2 * at], values[2 * at + 1]]]))
  })
}))
