/** The plates: one for each entry, in the order of the stack. */

import { byId, fromTemplate, setText, showState } from "./dom.js";
import { formatClock, formatMs } from "./format.js";

export class Plates {
  #plates = new Map(); // by the name of the entry
  #labels = new Map(); // the latest condition by the name of the entry

  /** Return the place for the buttons of an entry, or null before its plate exists. */
  controlsOf(name) {
    return this.#plates.get(name)?.querySelector(".controls") ?? null;
  }

  /** Show the entries. Return true if the condition of one has changed since the first snapshot. */
  show(lifespan) {
    if (lifespan.snapshot === null) {
      this.#labels.clear();
      return false;
    }
    const changes = [];
    for (const entry of lifespan.entries) {
      const condition = entry.condition;
      this.#showPlate(this.#plate(entry.name), entry, condition, lifespan);
      const before = this.#labels.get(entry.name);
      if (before === condition.label) continue;
      this.#labels.set(entry.name, condition.label);
      if (before !== undefined) changes.push(`${entry.name}: ${condition.label}`);
    }
    if (changes.length) setText(byId("latest-change"), `${formatClock(new Date())} ${changes.join(", ")}`);
    return changes.length > 0;
  }

  #plate(name) {
    if (!this.#plates.has(name)) {
      const plate = fromTemplate("plate");
      plate.dataset.entry = name;
      plate.querySelector("h3").textContent = name;
      byId("plates").append(plate);
      this.#plates.set(name, plate);
    }
    return this.#plates.get(name);
  }

  #showPlate(plate, entry, condition, lifespan) {
    plate.dataset.tone = condition.tone;
    showState(plate.querySelector(".state"), condition);
    setText(plate.querySelector(".took"), formatMs(entry.tookMs));
    const { check, lastError } = entry;
    setText(plate.querySelector(".check"), check ? `${check.status}, ${formatMs(check.took_ms)}` : "–");
    setText(plate.querySelector(".remark"), entry.isFailing ? "" : (check?.remark ?? ""));
    const error = lastError ? `error at ${formatClock(lifespan.dateAt(lastError.at_ms))}: ${lastError.error}` : "";
    setText(plate.querySelector(".last-error"), error);
    plate.querySelector(".last-error").title = error; // the text is cut once the entry works again
  }
}
