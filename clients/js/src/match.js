/** @param {string} topic */
export const isPattern = (topic) => /[*>]/.test(topic);

/**
 * NATS wildcards: `*` is one token, a final `>` one or more.
 * @param {string} pattern
 * @param {string} topic
 */
export function matches(pattern, topic) {
  const want = pattern.split("."), have = topic.split(".");
  return have.length >= want.length &&
    have.every((token, i) => (want[i] ?? want.at(-1)) === ">" || want[i] === "*" || want[i] === token);
}
