/** The journal as a table. */

import { byId, element } from "./dom.js";
import { formatMs } from "./format.js";

/** Show the events that the table does not have yet. A shorter journal is that of a new run. */
export function showJournal(events) {
  const body = byId("journal").querySelector("tbody");
  if (events.length < body.rows.length) body.replaceChildren();
  for (const event of events.slice(body.rows.length)) {
    const took = event.took_ms === null ? "" : formatMs(event.took_ms);
    const cells = [`${event.at_ms.toFixed(1)} ms`, event.event, event.name ?? "", took, event.error ?? ""];
    body.append(element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  }
}
