/** The run of a lifespan as the stream reports it. Times are milliseconds since the start of its journal. */

const TONES = { entering: "pending", active: "ok", exiting: "warning", exited: "idle" };

class WatchedEntry {
  state = "entering";
  tookMs = null;
  check = null;
  lastError = null;
  times = {}; // of its events, by type
  outages = []; // {from, to}: the check failed; `to` is null while it does

  constructor(name) {
    this.name = name;
  }

  get isFailing() {
    return this.state === "active" && this.check?.status === "failed";
  }

  /** Its state in words, and the tone of its colour. */
  get condition() {
    if (this.isFailing) return { tone: "error", label: "check fails" };
    return { tone: TONES[this.state] ?? "error", label: this.state };
  }

  /** The last event that ended the entry. */
  get endedAt() {
    const { exited, aborted, crashed } = this.times;
    return exited ?? this.times["exit failed"] ?? aborted ?? crashed ?? null;
  }
}

export class Lifespan {
  journal = [];
  snapshot = null;
  exitStatus = null; // null is unknown
  times = {}; // of the events of the stack as a whole, by type
  #entries = new Map(); // by name
  #receivedAt = 0; // the time of this browser when the snapshot arrived

  get entries() {
    return [...this.#entries.values()];
  }

  get phase() {
    if (this.times.stopped !== undefined) return "stopped";
    if (this.times.stopping !== undefined) return this.isReleasing ? "stopping" : "draining";
    return this.snapshot?.phase ?? "starting";
  }

  /** True from the first exit of an entry on. */
  get isReleasing() {
    return this.entries.some((entry) => entry.times.exiting !== undefined);
  }

  get hasFailures() {
    return this.entries.some((entry) => entry.isFailing);
  }

  /** The time now. It stands still after the end, and ticks between two snapshots. */
  get now() {
    if (this.times.stopped !== undefined) return this.times.stopped;
    const latest = this.journal.at(-1)?.at_ms ?? 0;
    if (this.snapshot === null) return latest;
    return Math.max(latest, this.snapshot.now_ms + performance.now() - this.#receivedAt);
  }

  /** Return the time of day of an event. */
  dateAt(ms) {
    return new Date(Date.parse(this.snapshot.began_at) + ms);
  }

  addEvent(event) {
    this.journal.push(event);
    if (event.name === null) {
      this.times[event.event] ??= event.at_ms;
      return;
    }
    this.#entry(event.name).times[event.event] = event.at_ms; // a snapshot with its state follows
  }

  setSnapshot(snapshot) {
    this.snapshot = snapshot;
    this.#receivedAt = performance.now();
    for (const { name, state, took_ms, check, last_error } of snapshot.entries) {
      const entry = this.#entry(name);
      Object.assign(entry, { state, tookMs: took_ms, check, lastError: last_error });
      this.#trackOutage(entry, snapshot.now_ms);
    }
  }

  setStopping() {
    this.times.stopping ??= this.now;
  }

  setStopped({ exit_status: exitStatus }) {
    this.times.stopped ??= this.now;
    this.exitStatus = exitStatus;
  }

  #entry(name) {
    if (!this.#entries.has(name)) this.#entries.set(name, new WatchedEntry(name));
    return this.#entries.get(name);
  }

  #trackOutage(entry, now) {
    const latest = entry.outages.at(-1);
    const isOpen = latest !== undefined && latest.to === null;
    if (entry.isFailing && !isOpen) entry.outages.push({ from: now, to: null });
    if (!entry.isFailing && isOpen) latest.to = now;
  }
}
