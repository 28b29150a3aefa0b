/** Server-sent events over `fetch`. Unlike `EventSource`, it can send the key of an operator. */

import { Problem, send } from "./requests.js";

const MAX_SILENCE_MS = 5000; // the gateway sends a snapshot at least every second

/**
 * Yield each event of one response as `{type, data}`.
 * Throw a `Problem` for another response, and if the connection is lost or silent.
 */
export async function* readEvents(path, key) {
  const controller = new AbortController();
  let timer;
  const restartTimer = () => {
    clearTimeout(timer);
    timer = setTimeout(() => controller.abort(), MAX_SILENCE_MS);
  };
  restartTimer();
  try {
    const headers = { Accept: "text/event-stream" };
    const response = await send(path, { key, headers, cache: "no-store", signal: controller.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new Problem(0, "The connection is lost.");
      });
      if (done) return;
      restartTimer();
      const blocks = (buffer + value).split("\n\n");
      buffer = blocks.pop();
      yield* blocks.map(parseEvent).filter((event) => event !== null);
    }
  } finally {
    clearTimeout(timer);
    controller.abort();
  }
}

/** Return the event of one block of lines, or null for a comment. */
function parseEvent(block) {
  let type = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) type = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5));
  }
  return data.length ? { type, data: JSON.parse(data.join("\n")) } : null;
}
