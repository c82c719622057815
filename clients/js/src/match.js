/** @param {string} topic */
export const isPattern = (topic) => /(^|\.)[*>](\.|$)/.test(topic);

/**
 * NATS wildcards: `*` is one token, a final `>` one or more.
 * @param {string} pattern
 * @param {string} topic
 */
export function matches(pattern, topic) {
  const want = pattern.split("."), have = topic.split(".");
  for (let i = 0; i < want.length; i++) {
    if (want[i] === ">") return have.length > i;
    if (i >= have.length || (want[i] !== "*" && want[i] !== have[i])) return false;
  }
  return want.length === have.length;
}
