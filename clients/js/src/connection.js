import { backoff, closed } from "./backoff.js";
import { FairleadError } from "./errors.js";
import { decode } from "./frame.js";

/**
 * - `connecting`: a socket is being opened, or is about to be at once
 * - `open`: hello was answered
 * - `disconnected`: not yet used, closed by `close()`, or waiting for the next attempt
 * - `suspended`: the same wait while nobody sees the page; being seen ends it
 * - `failed`: for good: the server said stay away, or the attempts are used up
 * @typedef {"connecting" | "open" | "suspended" | "disconnected" | "failed"} State
 */

/** @typedef {string | (() => string | null | Promise<string | null>)} TokenSource */

/**
 * @typedef {object} ConnectionOptions
 * @property {string} url
 * @property {string} [session] of an earlier page load
 * @property {TokenSource} [token]
 * @property {{ min?: number, max?: number, retries?: number }} [reconnect]
 * @property {typeof WebSocket} [WebSocket]
 * @property {boolean} [debug]
 */

/**
 * What a connection tells its session. After `lost`, `state` says whether another attempt follows at once.
 * @typedef {object} Owner
 * @property {(frame: import("./frame.js").Frame) => void} frame
 * @property {() => void} opened
 * @property {(cause: FairleadError, code: number) => void} lost
 * @property {import("./listeners.js").Listeners} listeners hears `state`
 * @property {(error: unknown) => void} report
 * @property {() => void} save the page is left
 */

/** The close code that an error to hello amounts to. @type {Partial<Record<import("./errors.js").Code, number>>} */
const refusals = { UNAUTHENTICATED: 4401, PERMISSION_DENIED: 4403, INVALID_ARGUMENT: 4400 };

/** One socket at a time, kept open: dial, hello, heartbeat watch, token refresh, drain and reconnect. */
export class Connection {
  /** @type {State} */
  state = "disconnected";
  /** @type {string | null} */
  conn = null;
  /** @type {string | null} */
  user = null;
  /** @type {string | undefined} */
  session;
  maxPayload = Infinity;

  #o;
  #env;
  #requests;
  #owner;
  /** @type {WebSocket | undefined} */
  #socket;
  /** @type {Record<string, unknown>} */
  #timers = {};
  /** @type {(() => void) | undefined} */
  #unwatch;
  #round = 0; // names a dial, so that what comes late from an earlier one is told apart
  #attempt = 0;
  #refused = 0;
  #patient = false;
  #openedAt = Infinity;
  #heardAt = 0;
  #heartbeat = 0;
  #drainAt = 0;

  /**
   * @param {ConnectionOptions} o
   * @param {import("./env.js").Env} env
   * @param {import("./requests.js").Requests} requests
   * @param {Owner} owner
   */
  constructor(o, env, requests, owner) {
    this.#o = o;
    this.session = o.session;
    this.#env = env;
    this.#requests = requests;
    this.#owner = owner;
  }

  /** Dials on the first call; does nothing later. */
  start() {
    if (this.#unwatch) return;
    this.#unwatch = this.#env.watch({ visibilitychange: () => this.#seen(), online: () => this.#wake(), pagehide: () => this.#owner.save() });
    this.#dial();
  }

  /** Says goodbye and stays away. */
  close() {
    this.#round++;
    this.#clear();
    this.#unwatch?.();
    const socket = this.#socket;
    this.#socket = undefined;
    this.conn = null;
    socket?.close(1000);
    if (this.state !== "failed") this.#set("disconnected");
  }

  /** @param {string[]} messages */
  send(messages) {
    for (const text of messages) {
      if (this.#o.debug) console.debug("fairlead >", text);
      this.#socket?.send(text);
    }
  }

  /** @param {State} state @param {FairleadError} [cause] */
  #set(state, cause) {
    if (this.state === state) return;
    this.state = state;
    this.#owner.listeners.emit("state", { state, cause });
  }

  async #dial() {
    const round = ++this.#round;
    this.#clear();
    this.#openedAt = Infinity;
    this.#drainAt = 0;
    this.#set("connecting");
    let token;
    try {
      token = await this.#token();
    } catch (error) {
      if (round === this.#round) this.#down(new FairleadError("UNAUTHENTICATED", "no token", { cause: error }), 1006);
      return;
    }
    if (round !== this.#round) return;
    try {
      this.#open(token ?? undefined);
    } catch (error) {
      this.#down(new FairleadError("INVALID_ARGUMENT", "not connected", { cause: error }), 4400);
    }
  }

  #token() {
    const { token } = this.#o;
    return typeof token === "function" ? token() : token;
  }

  /** @param {string} [token] */
  #open(token) {
    const Socket = this.#o.WebSocket ?? globalThis.WebSocket;
    const socket = (this.#socket = new Socket(this.#o.url, "fairlead.v1"));
    socket.onopen = () => socket === this.#socket && this.#hello(token);
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(socket, data);
    socket.onerror = () => {}; // a close event follows
    socket.onclose = ({ code, reason }) => {
      if (socket === this.#socket) this.#down(undefined, code, reason);
    };
    this.#after("dial", 10000, () => this.#leave(new FairleadError("UNAVAILABLE", "no hello"), 1006));
  }

  /** @param {string} [token] */
  #hello(token) {
    const socket = this.#socket;
    this.#ask({ op: "hello", token, client: "fairlead-js/0.1.0", session: this.session }, (error, ok) => {
      if (socket !== this.#socket) return;
      // The close that may follow an error says no more than the error.
      if (error) return this.#leave(error, refusals[error.code] ?? 1013);
      this.#stop("dial");
      ({ conn: this.conn, user: this.user, session: this.session, maxPayloadBytes: this.maxPayload = Infinity, heartbeatMs: this.#heartbeat = 0 } = ok);
      this.#openedAt = this.#env.now();
      this.#refused = 0;
      this.#watch();
      this.#refreshBefore(ok.expiresAt);
      this.#set("open");
      if (socket === this.#socket) this.#owner.opened();
    });
  }

  /**
   * Sends a request past the session's queue.
   * @param {import("./frame.js").Frame} frame
   * @param {(error: FairleadError | undefined, ok: any) => void} done
   */
  #ask(frame, done) {
    const request = this.#requests.create(frame, {}, done);
    request.dispatch();
    this.send([request.text]);
  }

  /**
   * Ends a socket from this side.
   * @param {FairleadError} cause
   * @param {number} as the close code this amounts to
   */
  #leave(cause, as) {
    this.#socket?.close(4001); // not 1000: that one says goodbye for the user
    this.#down(cause, as);
  }

  /**
   * The socket is gone, or there was none: decides what comes next.
   * @param {FairleadError | undefined} cause
   * @param {number} code
   * @param {string} [reason]
   */
  #down(cause, code, reason) {
    const env = this.#env, { min = 300, max = 10000, retries = Infinity } = this.#o.reconnect ?? {};
    let [advice, kind] = closed(code);
    cause ??= new FairleadError(kind, reason || `connection closed (${code})`);
    this.#socket = undefined;
    this.conn = null;
    this.#clear();
    if (env.now() - this.#openedAt >= 5000) this.#attempt = 0; // long enough to count as good
    // A token that was refused is asked for once more, at once; refused again, asking doesn't help.
    if (advice === "token" && (typeof this.#o.token !== "function" || this.#refused++)) advice = "stop";
    if (advice === "later") this.#attempt = Math.max(this.#attempt, 5);
    if (advice === "stop" || this.#attempt >= retries) {
      this.#unwatch?.();
      this.#set("failed", cause);
    } else {
      const wait = advice === "token" && !this.#attempt ? 0
        : advice === "now" && this.#drainAt ? Math.max(0, this.#drainAt - env.now())
        : Math.max(backoff(this.#attempt, min, max, env.random), cause.retryAfter ?? 0);
      this.#attempt++;
      this.#patient = advice === "later" || !!cause.retryAfter;
      this.#after("retry", wait, () => this.#dial());
      this.#set(advice === "now" || advice === "token" ? "connecting" : env.hidden() ? "suspended" : "disconnected", cause);
    }
    this.#owner.lost(cause, code);
  }

  #seen() {
    if (!this.#env.hidden()) this.#wake();
    else if (this.state === "disconnected") this.#set("suspended");
  }

  /** The network or the user is back: no more waiting, unless the server asked for it. */
  #wake() {
    if (this.#timers.retry) {
      if (!this.#patient) this.#dial();
    } else if (this.state === "open") this.#watch();
  }

  /** Any frame is a sign of life; nothing for two heartbeats, and the connection is dead whatever the socket says. */
  #watch() {
    if (!this.#heartbeat) return;
    const left = this.#heardAt + 2 * this.#heartbeat - this.#env.now();
    if (left > 0) this.#after("watch", left, () => this.#watch());
    else this.#leave(new FairleadError("UNAVAILABLE", "silent"), 4408);
  }

  /** @param {WebSocket} socket @param {unknown} data */
  #receive(socket, data) {
    this.#heardAt = this.#env.now();
    if (this.#o.debug) console.debug("fairlead <", data);
    let frames;
    try {
      frames = decode(/** @type {string} */ (data)); // a binary message is no JSON either
    } catch (error) {
      return this.#owner.report(new FairleadError("INTERNAL", "not a frame", { cause: error }));
    }
    for (const frame of frames) {
      if (socket !== this.#socket) return;
      try {
        if (frame.op === "drain") this.#drain(frame.afterMs);
        else this.#owner.frame(frame);
      } catch (error) {
        this.#owner.report(error);
      }
    }
  }

  /** The gateway goes: another one is dialled after the delay it gave, with a little grace for answers under way. */
  #drain(afterMs = 0) {
    this.#drainAt = this.#env.now() + afterMs;
    const move = () => {
      if (this.#requests.sent.size && this.#env.now() < this.#drainAt + 1000) this.#after("drain", 50, move);
      else this.#leave(new FairleadError("UNAVAILABLE", "draining"), 1001);
    };
    this.#after("drain", afterMs, move);
  }

  /** Sends another token in time. @param {number} [expiresAt] */
  #refreshBefore(expiresAt) {
    const left = (expiresAt ?? 0) - this.#env.now();
    if (left < 1000 || typeof this.#o.token !== "function") return;
    this.#after("refresh", Math.min(Math.max(left - 30000, left / 2), 2 ** 31 - 1 /* the longest timer there is */), () => this.refresh(expiresAt));
  }

  /** @param {number} [expiresAt] */
  async refresh(expiresAt) {
    const socket = this.#socket;
    const done = (/** @type {unknown} */ error, /** @type {any} */ ok = { expiresAt }) => {
      if (socket !== this.#socket) return;
      if (error) this.#owner.report(error);
      this.#refreshBefore(ok.expiresAt);
    };
    try {
      const token = await this.#token();
      if (socket === this.#socket) this.#ask({ op: "refresh", token }, done);
    } catch (error) {
      done(error);
    }
  }

  /** @param {string} name @param {number} ms @param {() => void} fn */
  #after(name, ms, fn) {
    this.#stop(name);
    this.#timers[name] = this.#env.setTimeout(() => {
      delete this.#timers[name];
      fn();
    }, ms);
  }

  /** @param {string} name */
  #stop(name) {
    this.#env.clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  #clear() {
    for (const name in this.#timers) this.#stop(name);
  }
}
