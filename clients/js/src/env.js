/**
 * What the client takes from its surroundings: clock, timers, chance, and the page it lives on.
 * Tests pass their own.
 * @typedef {object} Env
 * @property {() => number} now milliseconds since 1970
 * @property {() => number} random in [0, 1)
 * @property {(fn: () => void, ms: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => boolean | undefined} hidden whether nobody sees the page
 * @property {(on: Partial<Record<"visibilitychange" | "online" | "pagehide", () => void>>) => () => void} watch
 * @property {(name?: string) => Pick<Storage, "getItem" | "setItem"> | undefined} storage outlives a page load: `session` not the
 *   tab, `local` that too; throws on a page that may not store anything
 */

/** @type {Env} */
export const platform = {
  now: Date.now,
  random: Math.random,
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  hidden: () => globalThis.document?.hidden,
  watch(on) {
    const end = new AbortController(), { signal } = end;
    // visibilitychange bubbles up to the window
    if (globalThis.document) for (const [event, fn] of Object.entries(on)) addEventListener(event, fn, { signal });
    return () => end.abort();
  },
  storage: (name) => globalThis[/** @type {"sessionStorage"} */ (name + "Storage")],
};
