/** Ends what the call that returned it began; calling it again does nothing. @typedef {() => void} Off */

/**
 * Functions by event name, called in the order they were added. One that throws doesn't keep the
 * others from being called; its error goes to `failed`.
 */
export class Listeners {
  /** @type {Map<string, Set<{ fn: (...args: any[]) => void }>>} */
  #byEvent = new Map();
  #failed;

  /** @param {(error: unknown) => void} failed */
  constructor(failed) {
    this.#failed = failed;
  }

  /**
   * @param {string} event
   * @param {(...args: any[]) => void} fn
   * @param {Off} [ended] called once, by the first call of the returned function
   * @returns {Off}
   */
  add(event, fn, ended) {
    const entry = { fn };
    const set = this.#byEvent.get(event) ?? new Set();
    this.#byEvent.set(event, set.add(entry));
    return () => {
      if (!set.delete(entry)) return;
      if (!set.size && this.#byEvent.get(event) === set) this.#byEvent.delete(event);
      ended?.();
    };
  }

  /** @param {string} event */
  has(event) {
    return this.#byEvent.has(event);
  }

  /**
   * @param {string} event
   * @param {...any} args
   */
  emit(event, ...args) {
    const set = this.#byEvent.get(event);
    for (const entry of [...(set ?? [])]) {
      if (!set?.has(entry)) continue; // ended by one of its siblings
      try {
        entry.fn(...args);
      } catch (error) {
        this.#failed(error);
      }
    }
  }
}
