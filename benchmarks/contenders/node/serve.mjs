// The server that both contenders share: the clients, the routes and the relay.
import Fastify from 'fastify'
import { addBriefRoute } from './brief.mjs'
import { openDatabase, openPublisher, openRedis, openUpstream } from './clients.mjs'
import { addObservationRoute } from './observations.mjs'
import { startRelay } from './relay.mjs'

/**
 * Serve on the port that the first argument names. `makeCalls` takes the PostgreSQL pool, the Redis client and the upstream, and
 * returns the calls of the routes: `loadPlace`, `loadCached`, `loadWeather` and `store`.
 */
export const serve = async (makeCalls) => {
  const database = openDatabase()
  const publish = await openPublisher()
  const calls = makeCalls(database, openRedis(), openUpstream())
  const app = Fastify({ logger: false })
  addBriefRoute(app, publish, calls)
  addObservationRoute(app, database, calls.store, startRelay(database, publish))
  await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) })
  process.on('SIGTERM', () => process.exit(0))
}
