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
    if (!this.listeners.emit("error", error)) (globalThis.reportError ?? console.error)(error);
  };
  /** By event of the client; those with `$` are its own: `$end`, `$inbox`, and `$ask …` whose newest one answers the server. */
  listeners = listenersOf(this.report);
  /** @type {Map<string, import("./group.js").Group>} */
  groups = new Map();
  /** This user's own, by topic. @type {Map<string, import("./cursor.js").Own>} */
  cursors = new Map();
  /** Why nothing can be asked any more. @type {FairleadError | undefined} */
  ended;

  o;
  env;
  #requests;
  /** What is held of each topic. @type {Map<string, Subscription>} */
  subs = new Map();
  /** Subscriptions the server is to hear about. @type {Set<Subscription>} */
  #dirty = new Set();
  /** In the order they go out. @type {import("./requests.js").Request[]} */
  #queue = [];
  #scheduled = false;
  /** Positions of an earlier page load. @type {Record<string, string>} */
  #saved = {};
  #key;

  /** @param {SessionOptions} o @param {import("./env.js").Env} env */
  constructor(o, env) {
    this.o = o;
    this.env = env;
    this.#key = "fairlead:" + o.url;
    const saved = this.#load();
    this.#saved = saved.positions ?? {};
    this.#requests = requestsOf(env, o.timeout, (ref) => this.post({ op: "cancel", ref }));
    this.connection = new Connection({ ...o, session: saved.session }, env, this.#requests, this);
  }

  close() {
    if (this.ended) return;
    this.ended = new FairleadError("CANCELLED", "closed", { outcome: "none" });
    this.connection.close();
    this.lost(this.ended, 1000);
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

  /** Sends a frame that has no answer, ahead of what waits, or drops it where there is no connection. @param {object} [frame] */
  post(frame) {
    if (this.connection.state === "open") this.connection.send([JSON.stringify(frame)]);
  }

  /**
   * Keeps a topic subscribed until as many releases.
   * @param {string} topic
   * @param {import("./subscription.js").TopicOptions} o
   */
  hold(topic, o) {
    const sub = this.#know(topic, o);
    if (o.cursors && !sub.o.cursors) sub.o.cursors = sub.stale = true;
    if (!sub.holds++ || sub.stale) this.touch(sub);
    return sub;
  }

  /** @param {string} topic @param {import("./subscription.js").TopicOptions} o */
  #know(topic, o) {
    let sub = this.subs.get(topic);
    if (!sub) {
      const since = o.since ?? (o.last ? undefined : this.#saved[topic]);
      sub = new Subscription(topic, { ...o, since }, listenersOf(this.report));
      delete this.#saved[topic];
      this.subs.set(topic, sub);
    }
    return sub;
  }

  /** @param {Subscription} sub */
  #forget(sub) {
    const { topic } = sub;
    sub.down();
    if (this.subs.get(topic) !== sub) return;
    this.subs.delete(topic);
    this.cursors.delete(topic);
  }

  /**
   * Hears a topic, which is subscribed for as long.
   * @param {string} topic
   * @param {import("./subscription.js").TopicOptions} o
   * @param {string} event
   * @param {(e: any) => void} fn
   */
  listen(topic, o, event, fn) {
    const sub = this.hold(topic, o);
    return sub.listeners.add(event, fn, () => this.release(sub));
  }

  /** @param {any} sub @param {boolean} [stale] */
  release(sub, stale) {
    if (!--sub.holds || stale) this.touch(sub, stale);
  }

  /** Has the server told, at the end of this tick, what is wanted of a topic. @param {Subscription} sub @param {boolean} [stale] */
  touch(sub, stale) {
    sub.stale ||= !!stale;
    this.#dirty.add(sub);
    this.start();
    this.#schedule();
  }

  /** @param {import("./requests.js").Request} request */
  #enqueue(request) {
    const { size = 1000, policy = "drop-newest" } = this.o.queue ?? {};
    const { state } = this.connection;
    if (state !== "open") {
      if (state !== "connecting" && !(request.retry && policy !== "off")) {
        return request.end(new FairleadError("UNAVAILABLE", "not connected", { outcome: "none" }));
      }
      this.#queue = this.#queue.filter((r) => !r.over);
      const full = new FairleadError("RESOURCE_EXHAUSTED", "too many wait", { outcome: "none" });
      if (this.#queue.length >= size) {
        if (policy !== "drop-oldest") return request.end(full);
        this.#queue.shift()?.end(full);
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
      const next = /** @type {import("./requests.js").Request} */ (this.#queue.shift());
      if (!next.over && this.#fits(next)) send(next);
    }
    this.connection.send(pack(frames));
  }

  /** Ends a request that the gateway would refuse for its size. @param {import("./requests.js").Request} request */
  #fits(request) {
    const limit = this.connection.maxPayload;
    const observed = new Blob([request.text]).size;
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
    if (!sub.holds || this.subs.get(topic) !== sub) {
      this.#forget(sub);
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
      if (typeof wait === "number") {
        this.later(() => {
          if (!sub.holds || sub.wire !== now || this.connection.state !== "open") return;
          sub.down();
          sub.ghost = true;
          this.touch(sub);
        }, wait);
      } else if (wait === false) this.report(error);
      if (sub.stale) this.touch(sub);
    })];
  }

  /** @param {() => void} fn @param {number} ms at least */
  later(fn, ms) {
    this.env.setTimeout(fn, ms * (1 + this.env.random()));
  }

  opened() {
    for (const sub of this.subs.values()) this.#dirty.add(sub);
    for (const group of this.groups.values()) group.rejoin();
    this.#flush();
    for (const own of this.cursors.values()) if (this.env.now() - own.at < 30000) this.post(own.frame);
  }

  /** @param {FairleadError} cause @param {number} code */
  lost(cause, code) {
    const { state } = this.connection;
    if (state === "failed") this.ended ??= cause;
    for (const sub of this.subs.values()) sub.down();
    // 1009: one of the frames under way was too large, and would be again.
    const again = this.#requests.lost(cause, !this.ended && code !== 1009);
    this.#queue = [...again, ...this.#queue].filter((r) => !r.over && ((!this.ended && (r.retry || state === "connecting")) ||
      r.end(this.ended ?? new FairleadError("UNAVAILABLE", "not connected", { outcome: "none", cause }))));
    if (this.ended) this.listeners.emit("$end", this.ended);
  }

  /** A frame with `id` is a reply, one with `op` a control frame, one with an event a message. @param {import("./frame.js").Frame} frame */
  frame(frame) {
    const { id, op } = frame;
    if (id === 0) this.report(fromWire(frame.error));
    else if (id !== undefined) this.#requests.reply(frame);
    else if (op === "request") this.#serve(frame);
    else if (op === "system") this.#system(frame);
    else if (op === "group") this.groups.get(frame.group)?.control(frame);
    else if (op !== undefined) this.subs.get(frame.topic)?.control(frame);
    else if (typeof frame.event === "string") this.#message(/** @type {import("./subscription.js").Message} */ (frame));
  }

  /** @param {import("./frame.js").Frame} frame */
  #system({ op, ...system }) {
    const { event, what } = system;
    if (event === "refresh") this.connection.refresh();
    else if (event === "subscribed") {
      const sub = this.#know(what, {});
      if (!sub.wire) sub.accepted();
    } else if (event === "unsubscribed") {
      const sub = this.#know(what, {});
      this.#forget(sub);
      sub.refused(new FairleadError("PERMISSION_DENIED", event));
    }
    this.listeners.emit("system", system);
  }

  /** @param {import("./subscription.js").Message} message */
  #message(message) {
    const { topic, group, direct } = message;
    if (group !== undefined) return this.groups.get(group)?.message(message);
    if (direct) this.listeners.emit("$inbox", message);
    if (topic === undefined) return;
    for (const sub of this.subs.values()) if (sub.topic === topic || (sub.pattern && matches(sub.topic, topic))) sub.message(message);
  }

  /** Answers a request of the server. @param {import("./frame.js").Frame} frame */
  async #serve({ ref, event, data, text, base64 }) {
    const { conn } = this.connection;
    const reply = (/** @type {object} */ answer) => conn === this.connection.conn && this.post({ op: "reply", ref, ...answer });
    try {
      const fn = this.listeners.of("$ask " + event).at(-1)?.fn;
      if (!fn) throw new FairleadError("UNIMPLEMENTED", "not served");
      reply({ data: (await fn(data ?? text ?? base64)) ?? null });
    } catch (error) {
      const { code, message } = error instanceof FairleadError ? error : new FairleadError("INTERNAL", "client error");
      reply({ error: { code, message } });
      if (code === "INTERNAL") this.report(error);
    }
  }

  /** What an earlier page load left, in the storage that the options name. @returns {{ session?: string, positions?: Record<string, string> }} */
  #load() {
    try {
      return JSON.parse(this.env.storage(this.o.persist)?.getItem(this.#key) ?? "{}");
    } catch {
      return {};
    }
  }

  save() {
    const { session, user } = this.connection, { persist } = this.o;
    const positions = { ...this.#saved };
    for (const sub of this.subs.values()) if (sub.at.seq !== undefined) positions[sub.topic] = format(sub.at);
    try {
      this.env.storage(persist)?.setItem(this.#key, JSON.stringify({
        // Only an anonymous user has nothing but its session to be known by, and two tabs are not one session.
        session: persist === "session" && user?.startsWith("anon-") ? session : undefined,
        // The most that are kept over a page load: those of the newest topics.
        positions: Object.fromEntries(Object.entries(positions).slice(-1000)),
      }));
    } catch {
      // A full or forbidden storage costs a resume, nothing else.
    }
  }
}
