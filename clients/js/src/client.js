import { platform } from "./env.js";
import { FairleadError } from "./errors.js";
import { Group } from "./group.js";
import { Session } from "./session.js";
import { Topic } from "./topic.js";

/** @typedef {import("./connection.js").State} State */
/** @typedef {import("./listeners.js").Off} Off */
/** @typedef {import("./subscription.js").Message} Message */

/**
 * All of it optional.
 * @typedef {object} Options
 * @property {import("./connection.js").TokenSource} [token] a JWT, or a function that gets one: asked before every
 *   connection and in time before the token expires; none or null = anonymous
 * @property {{ min?: number, max?: number, retries?: number }} [reconnect] milliseconds of the first and the longest
 *   backoff (300, 10000), attempts in a row before `failed` (no limit)
 * @property {number} [timeout] milliseconds that a request may take (10000; a call: what its rule says)
 * @property {"none" | "session" | "local"} [persist] `session`: positions of topics, and an anonymous identity, outlive a page
 *   load in this tab; `local`: positions outlive the tab, and are shared by all tabs (the last one that is left counts)
 * @property {{ size?: number, policy?: "drop-newest" | "drop-oldest" | "off" }} [queue] what waits for a connection:
 *   how many (1000), and which one is given up when it is full; `off`: nothing waits while there is no attempt under way
 * @property {typeof WebSocket} [WebSocket] where there is no global one
 * @property {boolean} [debug] every frame to console.debug
 */

/**
 * What a call may be told.
 * @typedef {object} CallOptions
 * @property {number} [timeout] milliseconds; default: the client's, else the rule's
 * @property {AbortSignal} [signal] aborting tells the worker too
 * @property {(progress: any) => void} [onProgress]
 */

/** Topic → event → data. @typedef {Record<string, Record<string, any>>} AnySchema */

/**
 * One user on one gateway after another. Opens its connection on first use.
 * @template {AnySchema} [S=AnySchema]
 */
export class Client {
  #session;

  /** @param {string} url @param {Options} [o] @param {import("./env.js").Env} [env] */
  constructor(url, o = {}, env = platform) {
    this.#session = new Session({ ...o, url }, env);
  }

  /** @returns {State} */
  get state() {
    return this.#session.connection.state;
  }

  /** The user the server took this client for; null before the first hello. */
  get user() {
    return this.#session.connection.user;
  }

  /** The id of the connection, another one after each reconnect; null without one. */
  get conn() {
    return this.#session.connection.conn;
  }

  /**
   * Opens the connection; resolves when it is open, rejects when it failed for good.
   * @param {{ signal?: AbortSignal }} [o]
   * @returns {Promise<void>}
   */
  ready({ signal } = {}) {
    const session = this.#session;
    session.start();
    return new Promise((resolve, reject) => {
      const settle = () => {
        const error = signal?.aborted ? new FairleadError("CANCELLED", "aborted", { cause: signal.reason }) : session.ended;
        if (!error && this.state !== "open") return;
        offs.forEach((off) => off());
        signal?.removeEventListener("abort", settle);
        error ? reject(error) : resolve();
      };
      const offs = ["state", "$end"].map((event) => session.listeners.add(event, settle));
      signal?.addEventListener("abort", settle);
      settle();
    });
  }

  /**
   * @template {keyof S & string} T
   * @param {T} name
   * @param {import("./subscription.js").TopicOptions} [o]
   * @returns {Topic<S[T]>}
   */
  topic(name, o) {
    return new Topic(this.#session, name, o);
  }

  /** @param {string} name */
  group(name) {
    const { groups } = this.#session;
    if (!groups.has(name)) groups.set(name, new Group(this.#session, name));
    return /** @type {Group} */ (groups.get(name));
  }

  /**
   * Asks a worker. Rejects with UNIMPLEMENTED at once where none serves the method.
   * @template [R=any]
   * @param {string} method
   * @param {unknown} [data]
   * @param {CallOptions} [o]
   * @returns {Promise<R>}
   */
  call(method, data, { timeout = this.#session.o.timeout, ...o } = {}) {
    // 65 s is longer than any call may take on the server: it ends one whose limit only the server knows and whose answer never comes.
    return this.#session.request({ op: "call", method, data, timeoutMs: timeout }, { ...o, timeout: timeout ?? 65000 });
  }

  /**
   * Answers what the server asks this client; a FairleadError that `fn` throws is the answer's error. Of several
   * functions for one event the newest answers.
   * @param {string} event
   * @param {(data: any) => unknown} fn
   * @returns {Off}
   */
  serve(event, fn) {
    return this.#hear("$ask " + event, fn);
  }

  /**
   * Hears messages sent to this user or connection. One that names a topic reaches that topic's listeners too.
   * @param {(m: Message) => void} fn
   * @returns {Off}
   */
  inbox(fn) {
    return this.#hear("$inbox", fn);
  }

  /** @param {string} event @param {(e: any) => unknown} fn */
  #hear(event, fn) {
    this.#session.start();
    return this.#session.listeners.add(event, fn);
  }

  /**
   * `state`: every change of it. `error`: errors no caller waits for (without a listener they go to `reportError`
   * or the console). `system`: the server's own condition, such as `degraded` and `recovered`.
   * @overload
   * @param {"state"} event
   * @param {(e: { state: State, cause?: FairleadError }) => void} fn
   * @returns {Off}
   */
  /**
   * @overload
   * @param {"error" | "system"} event
   * @param {(e: any) => void} fn
   * @returns {Off}
   */
  /**
   * @param {"state" | "error" | "system"} event
   * @param {(e: any) => void} fn
   * @returns {Off}
   */
  on(event, fn) {
    return this.#session.listeners.add(event, fn);
  }

  /** Leaves for good: what waits is rejected with CANCELLED. */
  close() {
    this.#session.close();
  }
}
