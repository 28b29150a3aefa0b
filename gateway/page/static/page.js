/** The page: follows the stream of the gateway and shows what it reports. */

import { BriefView } from "./brief.js";
import { byId, setText } from "./dom.js";
import { Plates } from "./entries.js";
import { formatSeconds } from "./format.js";
import { showJournal } from "./journal.js";
import { Lifespan } from "./lifespan.js";
import { setUpObservationForm } from "./observation.js";
import { showOutbox } from "./outbox.js";
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
let isConnected = false;
const plates = new Plates();
const brief = new BriefView(() => isConnected);

/** Follow one stream after the other, forever. */
async function follow() {
  for (;;) {
    let pause = RECONNECT_MS;
    try {
      for await (const event of readEvents(STREAM, sessionStorage.getItem(KEY))) receive(event);
    } catch (problem) {
      if (problem.needsKey) await requestKey(problem.message);
      pause = (problem.retryAfter ?? 0) * 1000 || pause;
    }
    setConnected(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function receive({ type, data }) {
  if (!isConnected) {
    lifespan = new Lifespan(); // each stream begins with the whole journal
    setConnected(true);
  }
  if (type === "journal") lifespan.addEvent(data);
  if (type === "state") lifespan.setSnapshot(data);
  if (type === "draining") lifespan.setDrain(data);
  if (type === "stopped") lifespan.setStopped(data);
  show();
  if (type === "state") {
    showOutbox(data);
    brief.budgetMs = data.brief_timeout_s * 1000;
    if (lifespan.hasFailures) brief.refresh();
  }
}

/** Show the run. A change of an entry may have changed the brief and the servers, too. */
function show() {
  const { snapshot, phase } = lifespan;
  if (plates.show(lifespan) && phase === "started") {
    brief.refresh();
    if (snapshot.dev_servers) showServers(plates);
  }
  showJournal(lifespan.journal);
  showFact("phase", phase, PHASE_TONES[phase]);
  const status = phase === "started" && snapshot?.status !== phase ? (snapshot?.status ?? "–") : "–";
  showFact("health", status, STATUS_TONES[status] ?? "idle");
  if (snapshot) {
    setText(byId("instance"), snapshot.instance);
    document.title = `${snapshot.instance}: ${phase === "started" ? status : phase}`;
  }
  setText(byId("notice"), notice());
  draw();
}

function draw() {
  setText(byId("uptime"), lifespan.snapshot ? formatSeconds(Math.floor(lifespan.now / 1000)) : "–");
  drawTimeline(lifespan);
}

function notice() {
  if (lifespan.phase === "stopped") {
    const status = lifespan.exitStatus === null ? "" : ` with exit status ${lifespan.exitStatus}`;
    return `The gateway has stopped${status}. The page connects again as soon as one runs.`;
  }
  if (!isConnected) return lifespan.snapshot ? "The connection is lost. The page tries to connect again." : "";
  if (lifespan.phase === "draining") return "The gateway drains: it finishes the requests in progress.";
  if (lifespan.phase === "stopping") return "The gateway releases its entries in reverse order.";
  return "";
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
  if (connected) brief.refresh();
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
brief.choose(FIRST_PLACE);
setInterval(() => { if (isConnected) draw(); }, REDRAW_MS);
new ResizeObserver(draw).observe(byId("timeline").parentElement);
follow();
