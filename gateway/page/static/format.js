/** Numbers as text. `null` is unknown. */

export const UNKNOWN = "–";

export function formatMs(ms) {
  if (ms === null || ms === undefined) return UNKNOWN;
  if (ms > 0 && ms < 0.05) return "<0.1 ms";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return formatSeconds(ms / 1000);
}

export function formatSeconds(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 0.05) return "0 s";
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function formatCount(count) {
  return count === null || count === undefined ? UNKNOWN : count.toLocaleString("en");
}

/** Return the local time of day, such as 15:02:11. */
export function formatClock(date) {
  return date.toLocaleTimeString("en-GB");
}
