/** The form that reports an observation, and the count of the place, which the worker updates. */

import { byId, setText } from "./dom.js";
import { formatCount } from "./format.js";
import { getJson, send } from "./requests.js";

const MAX_POLLS = 40;
const POLL_MS = 250;

/** Report about the place of `view`, a `BriefView`. */
export function setUpObservationForm(view) {
  const form = byId("observation");
  let pending = null; // the report that the gateway has not confirmed, with its key

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (view.place === null) return;
    const path = `v1/places/${view.place.id}`;
    const body = JSON.stringify({
      temperature_c: byId("temperature").valueAsNumber,
      condition: byId("condition").value,
      note: byId("note").value || null,
    });
    // The same report keeps its key until the gateway has confirmed it, so that it is stored only once.
    if (pending?.path !== path || pending.body !== body) pending = { path, body, idempotencyKey: newKey() };
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const { observation_count: before } = await getPlace(path);
      const { id } = await report(pending);
      pending = null;
      showResult(`Stored as observation ${id}. The worker counts it.`, "ok");
      await Promise.all([view.refresh(), waitUntilCounted(path, before, view)]);
    } catch (problem) {
      if (problem.needsKey) byId("api-key-row").hidden = false;
      showResult(problem.message, "error");
    } finally {
      button.disabled = false;
    }
  });
}

async function report({ path, body, idempotencyKey }) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
  const response = await send(`${path}/observations`, { method: "POST", headers, body, key: byId("api-key").value });
  return response.json();
}

async function waitUntilCounted(path, before, view) {
  for (let poll = 0; poll < MAX_POLLS; poll++) {
    const place = await getPlace(path);
    if (place.observation_count > before) {
      if (view.place.id === place.id) view.showPlace(place);
      showResult(`Counted: ${formatCount(before)} → ${formatCount(place.observation_count)}`, "ok");
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  showResult("Stored, and not counted yet: the event waits in the outbox or in the queue.", "warning");
}

function getPlace(path) {
  return getJson(path, { cache: "no-store" });
}

function showResult(message, tone) {
  byId("observation-result").dataset.tone = tone;
  setText(byId("observation-result"), message);
}

/** Return a random UUID. Browsers offer `randomUUID` only over HTTPS and on localhost. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
