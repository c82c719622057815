import { backoff } from "./backoff.js";
import { platform } from "./env.js";
import { FairleadError } from "./errors.js";

/**
 * @typedef {object} RetryOptions
 * @property {AbortSignal} [signal] ends the waiting with CANCELLED; pass it to the request too
 * @property {number} [timeout] milliseconds for all attempts and waits (60000), 0 = no limit: where the next attempt would
 *   come later, the error it has is what it rejects with, at once
 * @property {boolean} [idempotent] doing it twice does no harm, as with a publish that has a `key`: it is also tried again where
 *   nobody knows what became of it
 * @property {(error: FairleadError, ms: number) => void} [onWait] hears each refusal, and for how long it waits
 */

/** setTimeout takes no more; what waits longer asks once in between. */
const longest = 2 ** 31 - 1;

/** What many who were refused together wait at random beyond what they were told: at first, and at most. */
const least = 100, most = 10000;

/**
 * Milliseconds after which the server wants to be asked again; undefined where asking again does not help, or might do
 * something twice.
 * @param {unknown} error
 * @param {boolean} [idempotent]
 * @returns {number | undefined}
 */
export function retryAfter(error, idempotent = false) {
  if (!(error instanceof FairleadError) || typeof error.retryAfter !== "number") return;
  const { code, outcome } = error;
  // A limit refuses before anything is done. Of a backend that is away only the one who said so knows.
  const undone = code === "RESOURCE_EXHAUSTED" ? outcome !== "unknown" : code === "UNAVAILABLE" && outcome === "none";
  return undone || idempotent && (code === "RESOURCE_EXHAUSTED" || code === "UNAVAILABLE") ? error.retryAfter : undefined;
}

/**
 * Asks, and where a limit or an overload refuses, waits for as long as the server says, a little at random on top, and asks
 * again. Never where it could never succeed (`retryAfter` null), and never where it may have been done already:
 *
 *     await retrying(() => room.publish("message", data, { signal }), { signal });
 *
 * Of several that wait at once none keeps its place: for an order, await each before the next.
 * @template T
 * @param {(attempt: number) => T | Promise<T>} ask begins one attempt, counted from 0
 * @param {RetryOptions} [o]
 * @param {import("./env.js").Env} [env]
 * @returns {Promise<T>}
 */
export async function retrying(ask, { signal, timeout = 60000, idempotent, onWait } = {}, env = platform) {
  const end = timeout ? env.now() + timeout : Infinity;
  for (let attempt = 0; ; attempt++) {
    let error;
    try {
      return await ask(attempt);
    } catch (e) {
      error = e;
    }
    const told = retryAfter(error, idempotent);
    if (told === undefined) throw error;
    const ms = Math.min(Math.ceil(told + backoff(attempt, Math.max(least, told), most, env.random)), longest);
    if (env.now() + ms > end) throw error;
    onWait?.(/** @type {FairleadError} */ (error), ms);
    await pause(env, ms, signal, error);
  }
}

/**
 * @param {import("./env.js").Env} env
 * @param {number} ms
 * @param {AbortSignal | undefined} signal
 * @param {any} error the refusal that is waited for
 */
function pause(env, ms, signal, error) {
  return /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
    const aborted = () => {
      env.clearTimeout(timer);
      reject(new FairleadError("CANCELLED", "aborted", { outcome: error.outcome ?? "none", cause: signal?.reason, details: error.details }));
    };
    const timer = env.setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    signal?.addEventListener("abort", aborted, { once: true });
    if (signal?.aborted) aborted();
  }));
}
