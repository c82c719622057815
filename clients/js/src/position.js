/**
 * A place in a topic's log, opaque to applications: `"seq:ts"`. A server-rendered page can hand one over.
 * @typedef {string} Position
 */

/**
 * @param {{ seq?: number, ts?: number }} at
 * @returns {Position}
 */
export const format = (at) => (at.seq === undefined ? "" : at.seq + ":" + (at.ts ?? ""));

/**
 * What is no position becomes what the server refuses.
 * @param {Position} [position]
 * @returns {{ seq?: number, ts?: number }}
 */
export function parse(position) {
  if (!position) return {};
  const [seq, ts] = position.split(":");
  return { seq: +seq, ts: ts ? +ts : undefined };
}
