/** Requests to the gateway. An error becomes a `Problem`, whose message says what to do (RFC 9457). */

export class Problem extends Error {
  /** `status` is 0 if there was no response. */
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get needsKey() {
    return this.status === 401 || this.status === 403;
  }
}

/** Return the response. Paths are relative to the page, which may be served below a prefix. */
export async function send(path, { key, headers = {}, ...options } = {}) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...authorization } });
  } catch {
    throw new Problem(0, "The gateway does not respond.");
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const { title, detail } = await response.json().catch(() => ({}));
  throw new Problem(response.status, detail ?? title ?? `The response has status ${response.status}.`, retryAfter);
}

export async function getJson(path, options) {
  return (await send(path, options)).json();
}
