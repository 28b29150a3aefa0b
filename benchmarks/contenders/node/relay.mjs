// The relay: publishes the entries of the outbox, and deletes those that the broker has confirmed.
const BATCH_SIZE = 100
const POLL_INTERVAL = 1000 // milliseconds
const SELECT = `
  SELECT id, event_id, type, body FROM outbox WHERE parked_at IS NULL AND next_attempt_at <= now()
  ORDER BY attempts, next_attempt_at, id LIMIT ${BATCH_SIZE} FOR UPDATE SKIP LOCKED`

/** Publish one batch. Resolves to whether there may be more. */
const publishBatch = async (database, publish) => {
  const client = await database.connect()
  try {
    await client.query('BEGIN')
    const { rows } = await client.query({ name: 'relay', text: SELECT })
    await Promise.all(rows.map((row) => publish(row.event_id, row.type, row.body)))
    if (rows.length > 0) {
      await client.query({ name: 'published', text: 'DELETE FROM outbox WHERE id = ANY($1)', values: [rows.map((row) => row.id)] })
    }
    await client.query('COMMIT')
    return rows.length === BATCH_SIZE
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

/** Publish until the process ends. Return a function that reports a new entry. */
export const startRelay = (database, publish) => {
  let notify = () => {}
  let notified = false
  const run = async () => {
    for (;;) {
      notified = false
      const mayBeMore = await publishBatch(database, publish).catch(() => false)
      if (mayBeMore || notified) continue
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, POLL_INTERVAL)
        notify = () => { clearTimeout(timer); resolve() }
      })
    }
  }
  run()
  return () => { notified = true; notify() }
}
