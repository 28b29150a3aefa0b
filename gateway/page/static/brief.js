/** The brief of a place: each section with its status, its source, its age and its share of the budget. */

import { byId, fromTemplate, setText, showState } from "./dom.js";
import { formatCount, formatMs, formatSeconds } from "./format.js";
import { getJson } from "./requests.js";

const REFRESH_MS = 1000;

const STATUSES = {
  ok: { tone: "ok", label: "ok" },
  stale: { tone: "warning", label: "stale" },
  unavailable: { tone: "error", label: "unavailable" },
};

const REASONS = { open: "circuit breaker open", no_weather: "no weather" }; // the others are plain words

const SECTIONS = {
  weather: {
    source: "HTTP, cached in Redis",
    describe: ({ temperature_c: temperature, wind_speed_m_s: wind, precipitation_mm: rain }) =>
      `${temperature.toFixed(1)} °C, wind ${wind.toFixed(1)} m/s, rain ${rain.toFixed(1)} mm`,
  },
  outlook: {
    source: "model, from the weather",
    describe: (it) => `${Math.round(it.wet_tomorrow_probability * 100)} % chance that tomorrow is wet`,
  },
  observations: { source: "PostgreSQL", describe: describeObservations },
  popularity: { source: "Redis, fed through RabbitMQ", describe: (it) => `${formatCount(it.views)} views` },
};

export class BriefView {
  place = null;
  budgetMs = 800; // the gateway's timeout for a brief
  #isReachable;
  #isComplete = true;
  #isLoading = false;
  #isOutdated = false; // a refresh was requested while a request was in progress
  #rows = new Map(); // by the name of the section

  /** Show no place yet. `isReachable` returns false while no request would succeed. */
  constructor(isReachable) {
    this.#isReachable = isReachable;
    setInterval(() => this.#refreshIfNeeded(), REFRESH_MS);
  }

  async choose(place) {
    this.place = place;
    await this.refresh();
  }

  /** Request the brief again, after the request in progress if there is one. */
  async refresh() {
    this.#isOutdated = true;
    if (this.#isLoading) return;
    this.#isLoading = true;
    while (this.#isOutdated && this.place !== null && this.#isReachable()) {
      this.#isOutdated = false;
      await this.#load(this.place.id);
    }
    this.#isLoading = false;
  }

  async #load(placeId) {
    const startedAt = performance.now();
    try {
      const brief = await getJson(`v1/places/${placeId}/brief`, { cache: "no-store" });
      setText(byId("brief-problem"), "");
      this.#show(brief, performance.now() - startedAt);
    } catch (problem) {
      this.#isComplete = false;
      setText(byId("brief-problem"), problem.message);
    }
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
  #refreshIfNeeded() {
    const isVisible = document.visibilityState === "visible";
    if (isVisible && (byId("brief-live").checked || !this.#isComplete)) this.refresh();
  }

  #show(brief, elapsed) {
    if (brief.place.id !== this.place.id) return; // the user has chosen another place meanwhile
    this.showPlace(brief.place);
    const sections = Object.entries(brief.sections);
    const isStale = sections.some(([, section]) => section.status === "stale");
    this.#isComplete = brief.complete && !isStale;
    const label = !brief.complete ? "incomplete" : isStale ? "complete, partly stale" : "complete";
    showState(byId("brief-status"), { tone: !brief.complete ? "error" : isStale ? "warning" : "ok", label });
    setText(byId("brief-status").querySelector(".muted"), `received in ${formatMs(elapsed)}`);
    for (const [name, section] of sections) this.#showSection(this.#row(name), name, section);
    setText(document.querySelector(".scale .budget"), `${formatMs(this.budgetMs)}, the budget`);
  }

  #row(name) {
    if (!this.#rows.has(name)) {
      const row = fromTemplate("section");
      row.dataset.section = name;
      row.querySelector("h4").textContent = name;
      byId("sections").append(row);
      this.#rows.set(name, row);
    }
    return this.#rows.get(name);
  }

  #showSection(row, name, section) {
    const status = STATUSES[section.status];
    row.dataset.tone = status.tone;
    const label = section.reason ? `${status.label}, ${REASONS[section.reason] ?? section.reason}` : status.label;
    showState(row.querySelector(".state"), { tone: status.tone, label });
    const known = SECTIONS[name];
    setText(row.querySelector(".data"), section.data === null ? "no data" : (known?.describe(section.data) ?? ""));
    const age = section.age_s === null ? "" : `, ${formatSeconds(section.age_s)} old`;
    setText(row.querySelector(".source"), (known?.source ?? "") + age);
    setText(row.querySelector(".took"), formatMs(section.took_ms));
    const share = Math.min(section.took_ms / this.budgetMs, 1);
    row.querySelector(".bar").style.width = `${share * 100}%`;
  }
}

function describeObservations(observations) {
  const latest = observations[0];
  if (!latest) return "none yet";
  const note = latest.note ? `, “${latest.note}”` : "";
  return `latest of ${observations.length}: ${latest.temperature_c} °C, ${latest.condition}${note}`;
}
