/** Ends what the call that returned it began; calling it again does nothing. @typedef {() => void} Off */

/**
 * Functions by event name, called in the order they were added. One that throws doesn't keep the
 * others from being called; its error goes to `failed`.
 */
export function listenersOf(/** @type {(error: unknown) => void} */ failed) {
  /** @type {Set<{ event: string, fn: (...args: any[]) => any }>} */
  const all = new Set();
  /** Those of an event. @param {string} event */
  const of = (event) => [...all].filter((listener) => listener.event === event);
  return {
    of,

    /**
     * @param {string} event
     * @param {(...args: any[]) => void} fn
     * @param {Off} [ended] called once, by the first call of the returned function
     * @returns {Off}
     */
    add(event, fn, ended) {
      const listener = { event, fn };
      all.add(listener);
      return () => {
        if (all.delete(listener)) ended?.();
      };
    },

    /** Reports whether anybody listens. @param {string} event @param {...any} args */
    emit(event, ...args) {
      const those = of(event);
      for (const listener of those) {
        try {
          if (all.has(listener)) listener.fn(...args); // else ended by one of its siblings
        } catch (error) {
          failed(error);
        }
      }
      return those.length > 0;
    },
  };
}

/** @typedef {ReturnType<typeof listenersOf>} Listeners */
