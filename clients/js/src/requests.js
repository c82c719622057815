import { FairleadError, fromWire } from "./errors.js";

/**
 * How one request is to be treated.
 * @typedef {object} RequestOptions
 * @property {number} [timeout] milliseconds, 0 = none; counted from the sending where `retry` is set
 * @property {AbortSignal} [signal]
 * @property {(progress: any) => void} [onProgress]
 * @property {boolean} [retry] may be sent again on another connection: the server recognises it by its key
 */

/**
 * A request from its making to its end, which comes exactly once.
 * @typedef {object} Request
 * @property {number} id
 * @property {string} text the frame as it goes on the wire
 * @property {boolean} retry
 * @property {boolean} [doubt] was sent on a connection that was lost before the answer
 * @property {boolean} [over]
 * @property {(progress: any) => void} [onProgress]
 * @property {() => void} dispatch marks it sent
 * @property {(error?: FairleadError, ok?: any) => void} end
 */

/**
 * The requests of a session that have an id: made here, found again when the reply comes.
 * @param {import("./env.js").Env} env
 * @param {number | undefined} limit milliseconds, where a request says nothing (10000)
 * @param {(id: number) => void} cancel tells the server that nobody waits for a call any more
 */
export function requestsOf(env, limit = 10000, cancel) {
  /** Sent and not ended, by id. @type {Map<number, Request>} */
  const sent = new Map();
  let next = 1;
  return {
    sent,

    /**
     * Throws what JSON.stringify throws: data is encoded now, so that the caller may change it afterwards.
     * @param {import("./frame.js").Frame} frame
     * @param {RequestOptions} o
     * @param {(error?: FairleadError, ok?: any) => void} done
     * @returns {Request}
     */
    create(frame, { timeout = limit, signal, onProgress, retry = false }, done) {
      const id = next++;
      /** @type {unknown} */
      let timer;
      /** @param {import("./errors.js").Code} code @param {string} message @param {unknown} [cause] */
      const giveUp = (code, message, cause) => {
        const asked = sent.has(id);
        request.end(new FairleadError(code, message, { outcome: asked ? "unknown" : "none", cause }));
        if (asked && frame.op === "call") cancel(id);
      };
      const aborted = () => giveUp("CANCELLED", `${frame.op}: aborted`, signal?.reason);
      const arm = () => {
        timer ??= timeout && env.setTimeout(() => giveUp("DEADLINE_EXCEEDED", `${frame.op}: no answer`), timeout);
      };
      /** @type {Request} */
      const request = {
        id,
        text: JSON.stringify({ id, ...frame }),
        retry,
        onProgress,
        dispatch: () => {
          sent.set(id, request);
          arm();
        },
        end: (error, ok) => {
          if (request.over) return;
          request.over = true;
          sent.delete(id);
          env.clearTimeout(timer);
          signal?.removeEventListener("abort", aborted);
          // What became of the attempt that was lost with its connection, nobody knows.
          if (error?.outcome === "none" && request.doubt) error = new FairleadError(error.code, error.message, { ...error, outcome: "unknown" });
          done(error, ok);
        },
      };
      if (!retry) arm();
      signal?.addEventListener("abort", aborted);
      if (signal?.aborted) aborted();
      return request;
    },

    /**
     * Takes a reply; those nobody waits for are ignored.
     * @param {import("./frame.js").Frame} frame
     */
    reply(frame) {
      const request = sent.get(frame.id);
      if (!request) return;
      if (frame.error) request.end(fromWire(frame.error));
      else if ("ok" in frame) request.end(undefined, frame.ok);
      else if ("progress" in frame) request.onProgress?.(frame.progress);
      else request.end(undefined, frame.text ?? frame.base64); // a worker's answer that is no JSON
    },

    /**
     * The connection is gone: ends what was sent on it, except what may be sent again, which is returned in order.
     * @param {unknown} cause
     * @param {boolean} again false: nothing is sent again
     * @returns {Request[]}
     */
    lost(cause, again) {
      const requests = [...sent.values()];
      sent.clear();
      return requests.filter((request) => (request.doubt = request.retry && again) ||
        request.end(new FairleadError("UNAVAILABLE", "not connected", { outcome: "unknown", cause })));
    },
  };
}

/** @typedef {ReturnType<typeof requestsOf>} Requests */
