/**
 * What a close code asks of the client (docs/protocol.md, "Close codes"):
 * `stop` = stay away, `token` = get another token, `now` = at once, elsewhere,
 * `later` = others need time to leave, `retry` = ordinary backoff.
 * @typedef {"stop" | "token" | "now" | "later" | "retry"} Advice
 */

/** @type {Record<number, [Advice, import("./errors.js").Code]>} */
const codes = {
  1000: ["stop", "CANCELLED"],
  1001: ["now", "UNAVAILABLE"],
  1009: ["retry", "RESOURCE_EXHAUSTED"],
  1013: ["retry", "RESOURCE_EXHAUSTED"],
  4400: ["stop", "INVALID_ARGUMENT"],
  4401: ["token", "UNAUTHENTICATED"],
  4403: ["stop", "PERMISSION_DENIED"],
  4408: ["retry", "DEADLINE_EXCEEDED"],
  4429: ["later", "RESOURCE_EXHAUSTED"],
};

/**
 * Advice and error code for a close code; what isn't listed is a lost connection.
 * @param {number} code
 */
export const closed = (code) => codes[code] ?? ["retry", "UNAVAILABLE"];

/**
 * Milliseconds before attempt `n` (from 0): full jitter, so that clients which lost the same gateway
 * don't come back together.
 * @param {number} n
 * @param {number} min
 * @param {number} max
 * @param {() => number} random in [0, 1)
 */
export const backoff = (n, min, max, random) => random() * Math.min(max, min * 2 ** n);
