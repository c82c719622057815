/** Ends what the call that returned it began; calling it again does nothing. @typedef {() => void} Off */

/**
 * Functions by event name, called in the order they were added. One that throws doesn't keep the
 * others from being called; its error goes to `failed`.
 */
export function listenersOf(/** @type {(error: unknown) => void} */ failed) {
  /** @type {Map<string, Set<{ fn: (...args: any[]) => void }>>} */
  const byEvent = new Map();
  return {
    /**
     * @param {string} event
     * @param {(...args: any[]) => void} fn
     * @param {Off} [ended] called once, by the first call of the returned function
     * @returns {Off}
     */
    add(event, fn, ended) {
      const entry = { fn };
      const set = byEvent.get(event) ?? new Set();
      byEvent.set(event, set.add(entry));
      return () => {
        if (!set.delete(entry)) return;
        if (!set.size && byEvent.get(event) === set) byEvent.delete(event);
        ended?.();
      };
    },

    /** The one added last. @param {string} event @returns {((...args: any[]) => any) | undefined} */
    newest: (event) => [...(byEvent.get(event) ?? [])].at(-1)?.fn,

    has: (/** @type {string} */ event) => byEvent.has(event),

    /** @param {string} event @param {...any} args */
    emit(event, ...args) {
      const set = byEvent.get(event);
      for (const entry of [...(set ?? [])]) {
        if (!set?.has(entry)) continue; // ended by one of its siblings
        try {
          entry.fn(...args);
        } catch (error) {
          failed(error);
        }
      }
    },
  };
}

/** @typedef {ReturnType<typeof listenersOf>} Listeners */
