import { Connection } from "./connection.js";
import { FairleadError, fromWire, isTransient } from "./errors.js";
import { pack } from "./frame.js";
import { listenersOf } from "./listeners.js";
import { matches } from "./match.js";
import { format } from "./position.js";
import { requestsOf } from "./requests.js";
import { Subscription } from "./subscription.js";

/**
 * @typedef {object} SessionOptions
 * @property {string} url
 * @property {import("./connection.js").TokenSource} [token]
 * @property {{ min?: number, max?: number, retries?: number }} [reconnect]
 * @property {number} [timeout]
 * @property {"none" | "session" | "local"} [persist]
 * @property {{ size?: number, policy?: "drop-newest" | "drop-oldest" | "off" }} [queue]
 * @property {typeof WebSocket} [WebSocket]
 * @property {boolean} [debug]
 */

/** The most requests under way at once: below what a gateway allows one connection. */
const maxSent = 500;

/** One client's life over any number of connections: what it subscribes to, serves and still has to send. */
export class Session {
  connection;
  /** An error that no caller waits for. @param {unknown} error */
  report = (error) => {
    if (this.listeners.has("error")) this.listeners.emit("error", error);
    else (globalThis.reportError ?? console.error)(error);
  };
  listeners = listenersOf(this.report);
  inbox = listenersOf(this.report);
  /** Functions that answer the server; of those for one event the newest does. */
  serving = listenersOf(this.report);
  /** @type {Map<string, import("./group.js").Group>} */
  groups = new Map();
  /** Why nothing can be asked any more. @type {FairleadError | undefined} */
  ended;

  #o;
  #env;
  #requests;
  /** @type {Map<string, Subscription>} */
  #subs = new Map();
  /** Those with wildcards. @type {Set<Subscription>} */
  #patterns = new Set();
  /** Subscriptions the server is to hear about. @type {Set<Subscription>} */
  #dirty = new Set();
  /** In the order they go out; texts are frames without an answer. @type {(import("./requests.js").Request | string)[]} */
  #queue = [];
  #scheduled = false;
  /** Positions of an earlier page load. @type {Record<string, string>} */
  #saved = {};
  #unwatch;
  #key;

  /** @param {SessionOptions} o @param {import("./env.js").Env} env */
  constructor(o, env) {
    this.#o = o;
    this.#env = env;
    this.#key = "fairlead:" + o.url;
    const saved = this.#load();
    this.#saved = saved.positions ?? {};
    this.#requests = requestsOf(env, o.timeout, (id) => this.post({ op: "cancel", ref: id }));
    this.connection = new Connection({ ...o, session: saved.session }, env, this.#requests, this);
    this.#unwatch = env.watch({ pagehide: () => this.#save() });
  }

  /** @param {FairleadError} [cause] */
  close(cause = new FairleadError("CANCELLED", "closed", { outcome: "none" })) {
    if (this.ended) return;
    this.ended = cause;
    this.connection.close();
    this.lost(cause, 1000);
  }

  start() {
    if (!this.ended) this.connection.start();
  }

  /**
   * Sends a request, now or when the attempt under way has succeeded; where none is, only what may be retried waits.
   * @param {import("./frame.js").Frame} frame
   * @param {import("./requests.js").RequestOptions} [o]
   * @returns {Promise<any>}
   */
  request(frame, o = {}) {
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(this.ended);
      this.start();
      const request = this.#requests.create(frame, o,
        (error, ok) => {
          error ? reject(error) : resolve(ok);
          this.#schedule(); // there is room for what waits
        });
      if (!request.over) this.#enqueue(request);
    });
  }

  /** Sends a frame that has no answer, or drops it where there is no connection. @param {import("./frame.js").Frame} frame */
  post(frame) {
    if (this.connection.state !== "open") return;
    this.#queue.push(JSON.stringify(frame));
    this.#schedule();
  }

  /**
   * Keeps a topic subscribed until as many releases.
   * @param {string} topic
   * @param {import("./subscription.js").TopicOptions} o
   */
  hold(topic, o) {
    let sub = this.#subs.get(topic);
    if (!sub) {
      const since = o.since ?? (o.last ? undefined : this.#saved[topic]);
      sub = new Subscription(topic, { ...o, since }, listenersOf(this.report));
      delete this.#saved[topic];
      this.#subs.set(topic, sub);
      if (sub.pattern) this.#patterns.add(sub);
    }
    if (o.cursors && !sub.o.cursors) {
      sub.o = { ...sub.o, cursors: true };
      sub.stale = true;
    }
    if (!sub.holds++ || sub.stale) this.touch(sub);
    return sub;
  }

  /** What is held of a topic, if anything. @param {string} topic */
  find(topic) {
    return this.#subs.get(topic);
  }

  /** @param {any} sub @param {boolean} [stale] */
  release(sub, stale) {
    if (!--sub.holds || stale) this.touch(sub, stale);
  }

  /** Has the server told, at the end of this tick, what is wanted of a topic. @param {Subscription} sub @param {boolean} [stale] */
  touch(sub, stale) {
    if (stale) sub.stale = true;
    this.#dirty.add(sub);
    this.start();
    this.#schedule();
  }

  /** @param {import("./requests.js").Request} request */
  #enqueue(request) {
    const { size = 1000, policy = "drop-newest" } = this.#o.queue ?? {};
    const { state } = this.connection;
    if (state !== "open") {
      if (state !== "connecting" && !(request.retry && policy !== "off")) {
        return request.end(new FairleadError("UNAVAILABLE", "not connected", { outcome: "none" }));
      }
      this.#queue = this.#queue.filter((r) => typeof r === "string" || !r.over);
      const full = new FairleadError("RESOURCE_EXHAUSTED", "too many wait", { outcome: "none" });
      if (this.#queue.length >= size) {
        if (policy !== "drop-oldest") return request.end(full);
        /** @type {any} */ (this.#queue.shift()).end?.(full);
      }
    }
    this.#queue.push(request);
    this.#schedule();
  }

  #schedule() {
    if (this.#scheduled || this.connection.state !== "open") return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  /** Sends what waits: subscriptions first, so that a publish of the same tick reaches them. */
  #flush() {
    if (this.connection.state !== "open") return;
    const { sent } = this.#requests;
    /** @type {string[]} */
    const frames = [];
    const send = (/** @type {import("./requests.js").Request} */ request) => {
      request.dispatch();
      frames.push(request.text);
    };
    for (const sub of this.#dirty) {
      if (sent.size >= maxSent) break;
      this.#dirty.delete(sub);
      this.#sync(sub).forEach(send);
    }
    while (this.#queue.length && sent.size < maxSent) {
      const next = /** @type {import("./requests.js").Request | string} */ (this.#queue.shift());
      if (typeof next === "string") frames.push(next);
      else if (!next.over && this.#fits(next)) send(next);
    }
    this.connection.send(pack(frames));
  }

  /** Ends a request that the gateway would refuse for its size. @param {import("./requests.js").Request} request */
  #fits(request) {
    const limit = this.connection.maxPayload;
    const observed = new TextEncoder().encode(request.text).length;
    if (observed <= limit) return true;
    request.end(new FairleadError("RESOURCE_EXHAUSTED", "too large",
      { retryAfter: null, outcome: "none", details: { observed, limit } }));
    return false;
  }

  /** The requests that tell the server what is wanted of a topic. @param {Subscription} sub @returns {import("./requests.js").Request[]} */
  #sync(sub) {
    const { topic } = sub;
    const gone = sub.ghost || (sub.wire && !sub.holds);
    const left = gone ? [this.#requests.create({ op: "unsubscribe", topic }, {}, () => this.#schedule())] : [];
    sub.ghost = false;
    if (!sub.holds) {
      if (this.#subs.get(topic) === sub) this.#subs.delete(topic);
      this.#patterns.delete(sub);
      sub.down();
      return left;
    }
    // Its answer says where it began: whatever changed meanwhile waits for that.
    if (sub.wire && !(sub.stale && sub.live && !sub.joining)) return left;
    sub.stale = false;
    const wire = (sub.wire = {}), frame = sub.frame();
    return [...left, this.#requests.create(frame, {}, (error, ok) => {
      this.#schedule();
      if (sub.wire !== wire || error && this.connection.state !== "open") return;
      if (error && sub.joined && (error.details?.limit || !isTransient(error))) { // no room, or no right any more, to appear: goes on without
        sub.down();
        sub.joined = undefined;
        this.release(sub, true);
        return this.report(error);
      }
      const wait = error ? sub.refused(error) : sub.accepted(ok, frame.after !== undefined);
      const now = sub.wire;
      if (wait !== undefined) {
        this.later(() => {
          if (!sub.holds || sub.wire !== now || this.connection.state !== "open") return;
          sub.down();
          sub.ghost = true;
          this.touch(sub);
        }, wait);
      }
      else if (error && !sub.listeners.has("$denied")) this.report(error);
      if (sub.stale) this.touch(sub);
    })];
  }

  /** @param {() => void} fn @param {number} ms at least */
  later(fn, ms) {
    this.#env.setTimeout(fn, ms * (1 + this.#env.random()));
  }

  opened() {
    for (const sub of this.#subs.values()) this.#dirty.add(sub);
    for (const group of this.groups.values()) group.rejoin();
    this.#flush();
  }

  /** @param {FairleadError} cause @param {number} code */
  lost(cause, code) {
    const { state } = this.connection;
    if (state === "failed") this.ended ??= cause;
    if (this.ended) this.#unwatch();
    for (const sub of this.#subs.values()) sub.down();
    // 1009: one of the frames under way was too large, and would be again.
    const again = this.#requests.lost(cause, !this.ended && code !== 1009);
    const waiting = [...again, ...this.#queue];
    this.#queue = [];
    for (const r of waiting) {
      if (typeof r === "string" || r.over) continue;
      if (this.ended) r.end(this.ended);
      else if (r.retry || state === "connecting") this.#queue.push(r);
      else r.end(new FairleadError("UNAVAILABLE", "not connected", { outcome: "none", cause }));
    }
    if (this.ended) this.listeners.emit("$end", this.ended);
  }

  /** A frame with `id` is a reply, one with `op` a control frame, one with an event a message. @param {import("./frame.js").Frame} frame */
  frame(frame) {
    if (frame.id === 0) this.report(fromWire(frame.error));
    else if (frame.id !== undefined) this.#requests.reply(frame);
    else if (frame.op === "request") this.#serve(frame);
    else if (frame.op === "system") this.listeners.emit("system", (({ op, ...event }) => event)(frame));
    else if (frame.op === "group") this.groups.get(frame.group)?.control(frame);
    else if (frame.op !== undefined) this.#subs.get(frame.topic)?.control(frame);
    else if (typeof frame.event === "string") this.#message(/** @type {import("./subscription.js").Message} */ (frame));
  }

  /** @param {import("./subscription.js").Message} message */
  #message(message) {
    const { topic, group, direct } = message;
    if (group !== undefined) return this.groups.get(group)?.message(message);
    if (direct) this.inbox.emit("", message);
    if (topic === undefined) return;
    this.#subs.get(topic)?.message(message);
    for (const sub of this.#patterns) if (matches(sub.topic, topic)) sub.message(message);
  }

  /** Answers a request of the server. @param {import("./frame.js").Frame} frame */
  async #serve({ ref, event, data, text, base64 }) {
    const { conn } = this.connection;
    let answer;
    try {
      const fn = this.serving.newest(event);
      if (!fn) throw new FairleadError("UNIMPLEMENTED", "not served");
      answer = { data: (await fn(data ?? text ?? base64)) ?? null };
      JSON.stringify(answer);
    } catch (error) {
      const { code, message } = error instanceof FairleadError ? error : new FairleadError("INTERNAL", "client error");
      answer = { error: { code, message } };
      if (code === "INTERNAL") this.report(error);
    }
    if (conn === this.connection.conn) this.post({ op: "reply", ref, ...answer });
  }

  /** What an earlier page load left, in the storage that the options name. @returns {{ session?: string, positions?: Record<string, string> }} */
  #load() {
    try {
      return JSON.parse(this.#env.storage(this.#o.persist)?.getItem(this.#key) ?? "{}");
    } catch {
      return {};
    }
  }

  #save() {
    const { session, anonymous } = this.connection, { persist } = this.#o;
    const positions = { ...this.#saved };
    for (const sub of this.#subs.values()) if (sub.at.seq !== undefined) positions[sub.topic] = format(sub.at);
    try {
      this.#env.storage(persist)?.setItem(this.#key, JSON.stringify({
        // Only an anonymous user has nothing but its session to be known by, and two tabs are not one session.
        session: anonymous && persist === "session" ? session : undefined,
        // The most that are kept over a page load: those of the newest topics.
        positions: Object.fromEntries(Object.entries(positions).slice(-1000)),
      }));
    } catch {
      // A full or forbidden storage costs a resume, nothing else.
    }
  }
}
