/** @param {string} topic */
export const isPattern = (topic) => /(^|\.)[*>](\.|$)/.test(topic);

/**
 * NATS wildcards: `*` is one token, a final `>` one or more.
 * @param {string} pattern
 * @param {string} topic
 */
export function matches(pattern, topic) {
  const want = pattern.split("."), have = topic.split(".");
  return (want.length === have.length || want.at(-1) === ">") &&
    want.every((token, i) => (token === ">" ? i < have.length : token === "*" || token === have[i]));
}
