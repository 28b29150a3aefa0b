/**
 * Return a function that takes an item and resolves to its result. Items of one loop iteration share a call of `load`, which
 * takes items and resolves to one result for each. While `maxInFlight` calls are in flight, further items wait and share the next.
 */
export const batcher = (load, { maxInFlight, maxSize }) => {
  const queue = []
  let inFlight = 0
  let scheduled = false

  const scheduleFlush = () => {
    if (scheduled || queue.length === 0 || inFlight >= maxInFlight) return
    scheduled = true
    setImmediate(flush)
  }
  const flush = async () => {
    scheduled = false
    const batch = queue.splice(0, maxSize)
    inFlight += 1
    scheduleFlush()
    try {
      const results = await load(batch.map((call) => call.item))
      batch.forEach((call, index) => call.resolve(results[index]))
    } catch (error) {
      for (const call of batch) call.reject(error)
    } finally {
      inFlight -= 1
      scheduleFlush()
    }
  }
  return (item) =>
    new Promise((resolve, reject) => {
      queue.push({ item, resolve, reject })
      scheduleFlush()
    })
}
