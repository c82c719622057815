/**
 * A place in a topic's log, opaque to applications: `"seq:ts"`. A server-rendered page can hand one over.
 * @typedef {string} Position
 */

/**
 * @param {{ seq?: number, ts?: number } | undefined} at
 * @returns {Position}
 */
export const format = (at) => (at?.seq === undefined ? "" : at.seq + ":" + (at.ts ?? ""));

/**
 * Request fields for a position; what is none becomes what the server refuses.
 * @param {Position} [position]
 * @returns {{ after?: number, ts?: number }}
 */
export function parse(position) {
  if (!position) return {};
  const [after, ts] = position.split(":");
  return { after: +after, ts: ts ? +ts : undefined };
}
