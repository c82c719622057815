/** A frame of the protocol, as JSON.parse returns it. @typedef {Record<string, any>} Frame */

/**
 * The frames of one WebSocket message: an object or an array of them. Throws on what is no JSON.
 * @param {string} text
 * @returns {Frame[]}
 */
export function decode(text) {
  return [JSON.parse(text)].flat().filter((f) => f instanceof Object);
}

/**
 * WebSocket messages for encoded frames, in their order: one frame as it stands, several as arrays.
 * @param {string[]} frames
 * @returns {string[]}
 */
export function pack(frames) {
  /** @type {string[][]} */
  const batches = [];
  let bytes = Infinity;
  for (const frame of frames) {
    bytes += frame.length;
    // Cut well before any payload limit, and at the most frames that a message may hold.
    if (bytes > 65536 || batches.at(-1)?.length === 256) {
      batches.push([]);
      bytes = frame.length;
    }
    batches.at(-1)?.push(frame);
  }
  return batches.map((batch) => (batch.length > 1 ? `[${batch}]` : batch[0]));
}
