/** The brief of a place: each section with its status, its source, its age and its duration as a share of the budget. */

import { byId, fromTemplate, setText, showState } from "./dom.js";
import { formatCount, formatMs, formatSeconds } from "./format.js";
import { getJson } from "./requests.js";

const BUDGET_MS = 800;
const REFRESH_MS = 1000;

const STATUSES = {
  ok: { tone: "ok", label: "ok" },
  stale: { tone: "warning", label: "stale" },
  unavailable: { tone: "error", label: "unavailable" },
};

const SECTIONS = {
  weather: {
    source: "HTTP, cached in Redis",
    describe: (it) => `${it.temperature_c} °C, wind ${it.wind_speed_m_s} m/s, ${it.precipitation_mm} mm of rain`,
  },
  outlook: {
    source: "model, from the weather",
    describe: (it) => `${Math.round(it.wet_tomorrow_probability * 100)} % chance that tomorrow is wet`,
  },
  observations: { source: "PostgreSQL", describe: describeObservations },
  popularity: { source: "Redis, fed through RabbitMQ", describe: (it) => `${formatCount(it.views)} views` },
};

export class BriefView {
  /** Show no place yet. `isConnected` returns false while no request would succeed. */
  constructor(isConnected) {
    this.place = null;
    this._isConnected = isConnected;
    this._isComplete = true;
    this._isLoading = false;
    this._rows = new Map(); // by the name of the section
    setInterval(() => this._refreshIfNeeded(), REFRESH_MS);
  }

  async choose(place) {
    this.place = place;
    await this.refresh();
  }

  /** Request the brief again. While a request is in progress, nothing happens. */
  async refresh() {
    if (this.place === null || this._isLoading || !this._isConnected()) return;
    this._isLoading = true;
    const requested = this.place.id;
    const startedAt = performance.now();
    try {
      const brief = await getJson(`v1/places/${requested}/brief`, { cache: "no-store" });
      if (this.place.id === requested) this._show(brief, performance.now() - startedAt);
      setText(byId("brief-problem"), "");
    } catch (problem) {
      this._isComplete = false;
      setText(byId("brief-problem"), problem.message);
    } finally {
      this._isLoading = false;
    }
    if (this.place.id !== requested) await this.refresh();
  }

  showPlace(place) {
    this.place = place;
    setText(byId("place-name"), place.name);
    const people = `${formatCount(place.population)} people`;
    setText(byId("place-facts"), `${place.country_code}, ${people}, ${place.timezone}`);
    setText(byId("observation-place"), `${place.name},`);
    setText(byId("observation-count"), formatCount(place.observation_count));
  }

  /** An incomplete brief is requested each second until it is complete; a complete one only if the user wants that. */
  _refreshIfNeeded() {
    const isVisible = document.visibilityState === "visible";
    if (isVisible && (byId("brief-live").checked || !this._isComplete)) this.refresh();
  }

  _show(brief, elapsed) {
    this.showPlace(brief.place);
    const sections = Object.entries(brief.sections);
    const isStale = sections.some(([, section]) => section.status === "stale");
    this._isComplete = brief.complete && !isStale;
    const label = !brief.complete ? "incomplete" : isStale ? "complete, partly stale" : "complete";
    showState(byId("brief-status"), { tone: !brief.complete ? "error" : isStale ? "warning" : "ok", label });
    setText(byId("brief-status").querySelector(".muted"), `received in ${formatMs(elapsed)}`);
    for (const [name, section] of sections) this._showSection(this._row(name), name, section);
    setText(document.querySelector(".scale .budget"), `${BUDGET_MS} ms, the budget`);
  }

  _row(name) {
    if (!this._rows.has(name)) {
      const row = fromTemplate("section");
      row.dataset.section = name;
      row.querySelector("h4").textContent = name;
      byId("sections").append(row);
      this._rows.set(name, row);
    }
    return this._rows.get(name);
  }

  _showSection(row, name, section) {
    const status = STATUSES[section.status];
    row.dataset.tone = status.tone;
    const label = section.reason ? `${status.label}, ${section.reason.replace("_", " ")}` : status.label;
    showState(row.querySelector(".state"), { tone: status.tone, label });
    const known = SECTIONS[name];
    setText(row.querySelector(".data"), section.data && known ? known.describe(section.data) : "no data");
    const age = section.age_s === null ? "" : `, ${formatSeconds(section.age_s)} old`;
    setText(row.querySelector(".source"), (known?.source ?? "") + age);
    setText(row.querySelector(".took"), formatMs(section.took_ms));
    const share = Math.min(section.took_ms / BUDGET_MS, 1);
    row.querySelector(".bar").style.width = `${share * 100}%`;
  }
}

function describeObservations(observations) {
  const latest = observations[0];
  if (!latest) return "none yet";
  const note = latest.note ? `, “${latest.note}”` : "";
  return `latest of ${observations.length}: ${latest.temperature_c} °C, ${latest.condition}${note}`;
}
