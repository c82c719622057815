/** A frame of the protocol, as JSON.parse returns it. @typedef {Record<string, any>} Frame */

/** The most frames one WebSocket message may hold, and the bytes at which a batch is cut well before any payload limit. */
const maxFrames = 256, maxBatch = 65536;

/**
 * The frames of one WebSocket message: an object or an array of them. Throws on what is no JSON.
 * @param {string} text
 * @returns {Frame[]}
 */
export function decode(text) {
  const value = JSON.parse(text);
  return (Array.isArray(value) ? value : [value]).filter((f) => f && typeof f === "object" && !Array.isArray(f));
}

/**
 * A frame with `id` is a reply, one with `op` a control frame, one with an event a message.
 * @param {Frame} frame
 * @returns {"reply" | "control" | "message" | "unknown"}
 */
export function kind(frame) {
  if (frame.id !== undefined) return "reply";
  if (frame.op !== undefined) return "control";
  return typeof frame.event === "string" ? "message" : "unknown";
}

/**
 * WebSocket messages for encoded frames, in their order: one frame as it stands, several as arrays.
 * @param {string[]} frames
 * @returns {string[]}
 */
export function pack(frames) {
  /** @type {string[]} */
  const messages = [];
  let start = 0, bytes = 0;
  frames.forEach((frame, i) => {
    bytes += frame.length;
    const next = frames[i + 1];
    if (next !== undefined && i + 1 - start < maxFrames && bytes + next.length <= maxBatch) return;
    messages.push(i === start ? frame : `[${frames.slice(start, i + 1).join()}]`);
    start = i + 1;
    bytes = 0;
  });
  return messages;
}
