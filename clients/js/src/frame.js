/** A frame of the protocol, as JSON.parse returns it. @typedef {Record<string, any>} Frame */

/** The most frames one WebSocket message may hold, and the bytes at which a batch is cut well before any payload limit. */
const maxFrames = 256, maxBatch = 65536;

/**
 * The frames of one WebSocket message: an object or an array of them. Throws on what is no JSON.
 * @param {string} text
 * @returns {Frame[]}
 */
export function decode(text) {
  return [JSON.parse(text)].flat().filter((f) => f instanceof Object && !Array.isArray(f));
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
    if (bytes > maxBatch || batches.at(-1)?.length === maxFrames) {
      batches.push([]);
      bytes = frame.length;
    }
    batches.at(-1)?.push(frame);
  }
  return batches.map((batch) => (batch.length > 1 ? `[${batch}]` : batch[0]));
}
