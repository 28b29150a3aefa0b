/** The timeline: a row for each entry, in panels with their own scales: the startup, the last minute and the stop. */

import { byId, svgElement } from "./dom.js";
import { formatMs } from "./format.js";

const ROW = 20;
const BAR = 12;
const HEAD = 22;
const AXIS = 20;
const GAP = 24;
const MIN_BAR = 1.5; // pixels, so that the shortest step is visible
const MINUTE = 60_000;
const TICK_DISTANCE = 56; // pixels, at least
const EDGE = 16; // pixels: a label nearer to the edge of its panel is not centred

export function drawTimeline(lifespan) {
  if (lifespan.snapshot === null) return;
  const svg = byId("timeline");
  const width = svg.clientWidth;
  const names = lifespan.entries.map((entry) => entry.name);
  const labels = Math.max(0, ...names.map((name) => name.length)) * 7.2 + 10;
  const height = HEAD + names.length * ROW + AXIS;
  svg.setAttribute("height", height);
  const drawn = names.map((name, row) => text(0, rowCenter(row), name, "name"));
  let x = labels;
  for (const panel of panels(lifespan)) {
    const panelWidth = (width - labels + GAP) * panel.share - GAP;
    drawn.push(drawPanel(panel, lifespan, x, panelWidth));
    x += panelWidth + GAP;
  }
  svg.querySelector("g").replaceChildren(...drawn);
}

/**
 * Return the panels. Each shows the time between `from` and `to`, has its `share` of the width, and counts from
 * `origin`, whose label is `zero`.
 */
function panels(lifespan) {
  const { now, times } = lifespan;
  const started = times.started ?? times.stopping ?? now;
  const served = times.stopping ?? now;
  const startup = {
    name: "startup",
    title: `startup, ${formatMs(started)}`,
    from: 0,
    to: started,
    origin: 0,
    zero: "0",
  };
  const recent = {
    name: "recent",
    title: served < MINUTE ? "since the start" : "last minute",
    from: Math.max(0, served - MINUTE),
    to: served,
    origin: served,
    zero: times.stopping === undefined ? "now" : "0",
  };
  if (times.stopping === undefined) return [{ ...startup, share: 0.6 }, { ...recent, share: 0.4 }];
  const drainedAt = firstExit(lifespan) ?? now;
  const stop = {
    name: "stop",
    title: `drain ${formatMs(drainedAt - served)}, teardown ${formatMs(now - drainedAt)}`,
    from: served,
    to: times.stopped ?? served + roundUp(now - served), // a scale that rarely changes while the stop goes on
    origin: served,
    zero: "0",
    drainedAt,
  };
  return [{ ...startup, share: 0.3 }, { ...recent, share: 0.2 }, { ...stop, share: 0.5 }];
}

function drawPanel(panel, { entries, now }, x, width) {
  const perMs = width / (panel.to - panel.from);
  const scale = (at) => x + (Math.min(Math.max(at, panel.from), panel.to) - panel.from) * perMs;
  const bottom = HEAD + entries.length * ROW;
  const group = svgElement("g", { class: panel.name }, text(x, 8, panel.title, "title"));
  for (const offset of ticks(panel, width)) {
    const tickX = scale(panel.origin + offset);
    const label = offset === 0 ? panel.zero : tickLabel(offset);
    const anchor = tickX < x + EDGE ? "start" : tickX > x + width - EDGE ? "end" : "middle";
    group.append(
      svgElement("line", { class: "tick", x1: tickX, x2: tickX, y1: HEAD - 4, y2: bottom }),
      text(tickX, bottom + 11, label, "tick-label", { "text-anchor": anchor }),
    );
  }
  if (panel.drainedAt !== undefined) {
    group.append(rectangle("drain", x, scale(panel.drainedAt), HEAD - 4, bottom - HEAD + 4));
  }
  entries.forEach((entry, row) => {
    for (const { kind, from, to } of phases(entry, now)) {
      if (from >= panel.to || to <= panel.from) continue;
      group.append(rectangle(kind, scale(from), scale(to), rowCenter(row) - BAR / 2, BAR));
    }
  });
  return group;
}

/** Return the bars of an entry. A phase that goes on reaches to `now`. */
function phases(entry, now) {
  const { entering, entered, exiting } = entry.times;
  const ended = entry.endedAt;
  const found = [];
  if (entering !== undefined) {
    found.push({ kind: "entering", from: entering, to: entered ?? entry.times["enter failed"] ?? now });
  }
  if (entered !== undefined) {
    const until = exiting ?? ended ?? now;
    found.push({ kind: "active", from: entered, to: until });
    for (const { from, to } of entry.outages) found.push({ kind: "failing", from, to: Math.min(to ?? until, until) });
  }
  if (exiting !== undefined) found.push({ kind: "exiting", from: exiting, to: ended ?? now });
  return found;
}

function firstExit(lifespan) {
  const exits = lifespan.entries.map((entry) => entry.times.exiting).filter((at) => at !== undefined);
  return exits.length ? Math.min(...exits) : null;
}

/** Return the milliseconds from the origin of a panel to each of its ticks. */
function ticks({ from, to, origin }, width) {
  const step = roundUp(((to - from) * TICK_DISTANCE) / width);
  const first = Math.ceil((from - origin) / step);
  const last = Math.floor((to - origin) / step);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * step);
}

function tickLabel(ms) {
  const size = Math.abs(ms) < 1000 ? `${Math.abs(ms)} ms` : `${Math.abs(ms) / 1000} s`;
  return ms < 0 ? `−${size}` : size;
}

/** Round a duration up to 1, 2 or 5 times a power of ten, from 1 ms on. */
function roundUp(ms) {
  const power = 10 ** Math.floor(Math.log10(Math.max(ms, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= ms);
}

const rowCenter = (row) => HEAD + row * ROW + ROW / 2;

function rectangle(kind, x1, x2, y, height) {
  return svgElement("rect", { class: kind, x: x1, y, width: Math.max(x2 - x1, MIN_BAR), height });
}

function text(x, y, content, kind, attributes = {}) {
  return svgElement("text", { class: kind, x, y, "dominant-baseline": "central", ...attributes }, content);
}
