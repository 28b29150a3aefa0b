/** The figures of the outbox and the queue of dead letters. */

import { byId, setText } from "./dom.js";
import { formatCount, formatSeconds } from "./format.js";

/** Show the figures of a snapshot. Those that should be zero and are not stand out. */
export function showOutbox({ outbox, dead_letters: deadLetters }) {
  setText(byId("outbox-waiting"), formatCount(outbox?.waiting));
  setText(byId("outbox-oldest"), formatSeconds(outbox?.oldest_age_s));
  showAlarm(byId("outbox-failing"), outbox?.failing);
  showAlarm(byId("outbox-parked"), outbox?.parked);
  showAlarm(byId("dead-letters"), deadLetters);
}

function showAlarm(node, count) {
  node.dataset.tone = count > 0 ? "error" : "";
  setText(node, formatCount(count));
}
