/** The page: follows the stream of the gateway and shows what it reports. */

import { BriefView } from "./brief.js";
import { byId, setText } from "./dom.js";
import { Plates } from "./entries.js";
import { formatSeconds } from "./format.js";
import { showJournal } from "./journal.js";
import { Lifespan } from "./lifespan.js";
import { setUpObservationForm } from "./observation.js";
import { showOutbox } from "./outbox.js";
import { Problem } from "./requests.js";
import { setUpSearch } from "./search.js";
import { showServers } from "./servers.js";
import { readEvents } from "./stream.js";
import { drawTimeline } from "./timeline.js";

const STREAM = "lifecycle/events?until=stopped";
const RECONNECT_MS = 1000;
const REDRAW_MS = 250;
const FIRST_PLACE = { id: 2657896 }; // Zürich

const KEY = "operator-key"; // in the storage of this tab

const PHASE_TONES = { starting: "pending", started: "ok", draining: "warning", stopping: "warning", stopped: "idle" };
const STATUS_TONES = { ok: "ok", degraded: "warning", unavailable: "error" };

let lifespan = new Lifespan();
let isConnected = false; // the stream
let isReachable = true; // the gateway, perhaps without the stream
let streamProblem = ""; // the reason why there is no stream, if the gateway gave one
const plates = new Plates();
const brief = new BriefView(() => isReachable);

/** Follow one stream after the other, forever. */
async function follow() {
  for (;;) {
    let problem = new Problem(0, "");
    try {
      for await (const event of readEvents(STREAM, sessionStorage.getItem(KEY))) receive(event);
    } catch (error) {
      if (error instanceof Problem) problem = error;
      else console.error(error); // a bug
    }
    isReachable = problem.status !== 0;
    streamProblem = isReachable && !problem.needsKey ? problem.message : "";
    setConnected(false);
    if (problem.needsKey) await requestKey(problem.message);
    await new Promise((resolve) => setTimeout(resolve, (problem.retryAfter ?? 0) * 1000 || RECONNECT_MS));
  }
}

function receive({ type, data }) {
  if (!isConnected) {
    isReachable = true;
    streamProblem = "";
    lifespan = new Lifespan(); // each stream begins with the whole journal
    setConnected(true);
  }
  const isFirstState = type === "state" && lifespan.snapshot === null;
  if (type === "journal") lifespan.addEvent(data);
  if (type === "state") lifespan.setSnapshot(data);
  if (type === "draining") lifespan.setStopping();
  if (type === "stopped") lifespan.setStopped(data);
  const hasChanged = show();
  if (type !== "state" || lifespan.phase !== "started") return;
  brief.budgetMs = data.brief_timeout_s * 1000;
  if (hasChanged || lifespan.hasFailures) brief.refresh();
  if (data.dev_servers && (hasChanged || isFirstState)) showServers(plates);
}

/** Show the run. Return true if the condition of an entry has changed. */
function show() {
  const { snapshot, phase } = lifespan;
  const hasChanged = plates.show(lifespan);
  showJournal(lifespan.journal);
  showFact("phase", phase, PHASE_TONES[phase]);
  const status = phase === "started" && snapshot?.status !== phase ? (snapshot?.status ?? "–") : "–";
  showFact("health", status, STATUS_TONES[status] ?? "idle");
  if (snapshot) {
    showOutbox(snapshot);
    setText(byId("instance"), snapshot.instance);
    document.title = `${snapshot.instance}: ${phase === "started" ? status : phase}`;
  }
  setText(byId("notice"), notice());
  draw();
  return hasChanged;
}

function draw() {
  setText(byId("uptime"), lifespan.snapshot ? formatSeconds(Math.floor(lifespan.now / 1000)) : "–");
  drawTimeline(lifespan);
}

/** Return what the user should know, or an empty text. */
function notice() {
  if (streamProblem) return streamProblem;
  const { phase, snapshot, exitStatus } = lifespan;
  if (snapshot === null) return "";
  if (phase === "stopped") {
    const status = exitStatus === null ? "" : ` with exit status ${exitStatus}`;
    return `The gateway has stopped${status}. The page connects again as soon as one runs.`;
  }
  if (!isConnected) return "The connection is lost. The page tries to connect again.";
  if (phase === "stopping") return "The gateway releases its entries in reverse order.";
  if (phase !== "draining") return "";
  const { drain_s: drain, graceful_s: graceful } = snapshot.stop;
  const accepts = drain > 0 ? `accepts requests for ${formatSeconds(drain)}, and ` : "";
  return `The gateway drains: it ${accepts}finishes those in progress within ${formatSeconds(graceful)}.`;
}

function showFact(id, text, tone) {
  byId(id).dataset.tone = tone;
  setText(byId(id), text);
}

function setConnected(connected) {
  isConnected = connected;
  showFact("stream", connected ? "live" : "connecting", connected ? "ok" : "pending");
  document.body.classList.toggle("disconnected", !connected);
  show();
  brief.refresh();
}

/** Wait until the user has given a key. It is stored until the tab is closed. */
function requestKey(reason) {
  const form = byId("operator-key");
  setText(byId("operator-key-problem"), reason);
  form.hidden = false;
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, byId("operator-key-field").value);
      form.reset();
      form.hidden = true;
      resolve();
    }, { once: true });
  });
}

setUpSearch((place) => brief.choose(place));
setUpObservationForm(brief);
brief.place = FIRST_PLACE;
setInterval(() => { if (isConnected) draw(); }, REDRAW_MS);
new ResizeObserver(draw).observe(byId("timeline").parentElement);
follow();
