import { FairleadError, fromWire } from "./errors.js";
import { decode } from "./frame.js";
import { isPattern, matches } from "./match.js";
import { Cursors, Groups, Rooms } from "./rooms.js";

/**
 * A gateway in memory, for unit tests of code that uses a client:
 *
 *     const server = new MemoryServer();
 *     const fl = connect("ws://test/ws", { WebSocket: server.WebSocket, token: "ann" });
 *
 * It takes a token for the user's name, passes messages between its clients, knows who is on a topic and in a group and
 * where the cursors are, answers calls by functions, asks its clients, and says UNIMPLEMENTED to the rest. Nothing waits for a clock: everything happens within
 * a few microtasks, and a member whose connection ends is gone at once.
 */
export class MemoryServer {
  /** Every frame clients sent, with the connection it came on. @type {{ conn: string, frame: any }[]} */
  received = [];
  /** @type {Map<string, (data: any, call: { user: string, conn: string, progress(data: any): void, signal: AbortSignal }) => unknown>} */
  #methods = new Map();
  /** @type {Map<string, Peer>} */
  #peers = new Map();
  /** @type {Map<string, { peer: Peer, resolve(data: any): void, reject(error: any): void }>} */
  #asked = new Map();
  #cursors = new Cursors();
  #next = 1;
  #rooms = new Rooms();
  #groups = new Groups();

  /** For the option of that name. @type {typeof WebSocket} */
  WebSocket;

  constructor() {
    const server = this;
    this.WebSocket = /** @type {any} */ (class extends Peer {
      /** @param {string} url */
      constructor(url) {
        super(url, server);
      }
    });
  }

  /** Connections that said hello. @returns {{ conn: string, user: string }[]} */
  get connections() {
    return [...this.#peers.values()].map(({ conn, user }) => ({ conn, user }));
  }

  /** How many users may be on a topic, and connections in a group; one more is refused. @param {number} n */
  set maxMembers(n) {
    this.#rooms.maxMembers = this.#groups.maxMembers = n;
  }

  /** Closes a group, as a worker does. @param {string} name */
  closeGroup(name) {
    this.#groups.close(name);
  }

  /**
   * Answers calls of a method, like a worker.
   * @param {string} method
   * @param {(data: any, call: { user: string, conn: string, progress(data: any): void, signal: AbortSignal }) => unknown} fn an error
   *   it throws is answered with its `code`; `signal` is aborted when the client cancels or its connection ends
   */
  handle(method, fn) {
    this.#methods.set(method, fn);
  }

  /** Publishes as a worker does. @param {string} topic @param {string} event @param {any} data */
  publish(topic, event, data) {
    this.#fanOut({ topic, event, data });
  }

  /** A direct message to a user's connections. @param {string} user @param {string} event @param {any} data @param {string} [topic] */
  send(user, event, data, topic) {
    for (const peer of this.#peers.values()) if (peer.user === user) peer.deliver({ topic, event, data, direct: true });
  }

  /**
   * Asks a connection, or a user's newest one. Rejects with what the client throws, NOT_FOUND where nobody is there, and
   * UNAVAILABLE when the connection ends before the answer.
   * @param {string} who @param {string} event @param {any} data @returns {Promise<any>}
   */
  async ask(who, event, data) {
    const peer = this.#peers.get(who) ?? [...this.#peers.values()].findLast((p) => p.user === who);
    if (!peer) throw new FairleadError("NOT_FOUND", who + ": not connected");
    const ref = "r" + this.#next++;
    return new Promise((resolve, reject) => {
      this.#asked.set(ref, { peer, resolve, reject });
      peer.deliver({ op: "request", ref, event, data, timeoutMs: 5000 });
    });
  }

  /** Closes a user's connections as an operator does. @param {string} user @param {string} [reason] @param {number} [code] */
  disconnect(user, reason = "disconnected by an operator", code = 4403) {
    for (const peer of [...this.#peers.values()]) if (peer.user === user) peer.end(code, reason);
  }

  /** Subscribes a user's connections to a topic, or ends that. @param {string} user @param {string} topic @param {boolean} on */
  subscribe(user, topic, on = true) {
    for (const peer of this.#peers.values()) {
      if (peer.user !== user || peer.topics.has(topic) === on) continue;
      if (on) peer.topics.add(topic);
      else this.#left(peer, topic);
      peer.deliver({ op: "system", event: on ? "subscribed" : "unsubscribed", what: topic, at: Date.now() });
    }
  }

  /** Has a user's clients get another token. @param {string} user */
  refresh(user) {
    for (const peer of this.#peers.values()) if (peer.user === user) peer.deliver({ op: "system", event: "refresh", at: Date.now() });
  }

  /** Says that something is away, or back. @param {string} what such as `nats` @param {boolean} away */
  degrade(what, away = true) {
    for (const peer of this.#peers.values()) peer.deliver({ op: "system", event: away ? "degraded" : "recovered", what, at: Date.now() });
  }

  /** Closes every connection, as a gateway that dies (1006) or says why. @param {number} [code] */
  drop(code = 1006) {
    for (const peer of [...this.#peers.values()]) peer.end(code);
  }

  /** Asks every client to go elsewhere. @param {number} [afterMs] */
  drain(afterMs = 0) {
    for (const peer of this.#peers.values()) peer.deliver({ op: "drain", afterMs });
  }

  /** @param {any} message @param {Peer} [except] */
  #fanOut(message, except) {
    for (const peer of this.#peers.values()) {
      if (peer !== except && [...peer.topics].some((t) => t === message.topic || (isPattern(t) && matches(t, message.topic)))) peer.deliver(message);
    }
  }

  /** @param {Peer} peer */
  gone(peer) {
    this.#peers.delete(peer.conn);
    this.#rooms.gone(peer);
    this.#groups.gone(peer);
    this.#cursors.gone(peer);
    for (const call of peer.calls.values()) call.abort();
    for (const [ref, asked] of this.#asked) {
      if (asked.peer !== peer) continue;
      this.#asked.delete(ref);
      asked.reject(new FairleadError("UNAVAILABLE", "the connection ended"));
    }
  }

  /** @param {Peer} peer @param {string} topic */
  #left(peer, topic) {
    peer.topics.delete(topic);
    this.#cursors.leave(peer, topic);
    this.#rooms.set(peer, topic, false);
  }

  /** @param {Peer} peer @param {any} frame */
  async take(peer, frame) {
    this.received.push({ conn: peer.conn, frame });
    try {
      await this.#run(peer, frame);
    } catch (error) {
      const { code = "INTERNAL", message, retryAfter, details } = /** @type {any} */ (error), { id = 0, op, topic, group } = frame;
      peer.deliver({ id, error: { code, message, retryAfterMs: retryAfter, details: { op, topic, group, ...details } } });
    }
  }

  /** Runs one frame; what it throws is answered. @param {Peer} peer @param {any} frame */
  async #run(peer, frame) {
    const { id, op, topic, event = "message", data, ref } = frame, rooms = this.#rooms;
    const ok = (/** @type {any} */ value) => id && peer.deliver({ id, ok: value });
    const refuse = (/** @type {import("./errors.js").Code} */ code, /** @type {string} */ message) => {
      throw new FairleadError(code, message);
    };
    const { watching, joined } = rooms.of(peer, topic);
    switch (op) {
      case "hello":
        peer.conn = "c" + this.#next++;
        peer.user = frame.token ?? "anon-" + (frame.session ?? peer.conn);
        this.#peers.set(peer.conn, peer);
        return ok({ conn: peer.conn, user: peer.user, session: frame.session ?? "s" + peer.conn, gateway: "memory", heartbeatMs: 25000, maxPayloadBytes: 1e6 });
      case "refresh":
        return ok({});
      case "subscribe":
        if (frame.presence && isPattern(topic)) return refuse("INVALID_ARGUMENT", "presence: not together with a wildcard");
        if (frame.presence === "join") rooms.check(peer, topic);
        peer.topics.add(topic);
        ok({ topic });
        this.#cursors.watch(peer, topic, !!frame.cursors);
        return rooms.set(peer, topic, !!frame.presence, frame.presence === "join" ? { data } : undefined);
      case "unsubscribe":
        this.#left(peer, topic);
        return ok({});
      case "cursor":
        if (!peer.topics.has(topic)) return refuse("FAILED_PRECONDITION", "subscribe to the topic first");
        this.#cursors.move(peer, topic, data);
        return ok({});
      case "presence.join":
        if (!peer.topics.has(topic)) return refuse("FAILED_PRECONDITION", "subscribe to the topic first");
        rooms.check(peer, topic);
        ok({});
        return rooms.set(peer, topic, true, { data });
      case "presence.update":
        if (!joined) return refuse("FAILED_PRECONDITION", "join the topic's presence first");
        ok({});
        return rooms.set(peer, topic, watching, { data });
      case "presence.leave":
        ok({});
        return rooms.set(peer, topic, watching);
      case "presence":
        return ok(rooms.list(topic, frame.limit, frame.cursor));
      case "group.join":
      case "group.leave":
      case "group.publish":
      case "group.send":
      case "group.members":
      case "group.meta":
        return ok(this.#groups.run(peer, frame));
      case "publish":
        this.#fanOut({ topic, event, data, from: peer.user }, frame.echo === false ? peer : undefined);
        return ok({});
      case "call": {
        const fn = this.#methods.get(frame.method);
        if (!fn) return refuse("UNIMPLEMENTED", "no worker serves " + frame.method);
        const cancel = new AbortController(), { signal } = cancel;
        peer.calls.set(id, cancel);
        try {
          const progress = (/** @type {any} */ p) => peer.deliver({ id, progress: p });
          return ok((await fn(data, { user: peer.user, conn: peer.conn, progress, signal })) ?? null);
        } finally {
          peer.calls.delete(id);
        }
      }
      case "reply": {
        const asked = this.#asked.get(ref);
        this.#asked.delete(ref);
        return frame.error ? asked?.reject(fromWire(frame.error)) : asked?.resolve(data);
      }
      case "cancel":
        return peer.calls.get(ref)?.abort();
      case "pong":
        return;
      default:
        return refuse("UNIMPLEMENTED", op + ": not in the memory server");
    }
  }
}

/** The socket of one client. */
class Peer {
  conn = "";
  user = "";
  /** @type {Set<string>} */
  topics = new Set();
  /** Calls under way. @type {Map<number, AbortController>} */
  calls = new Map();
  readyState = 0;
  protocol = "fairlead.v1";
  /** @type {((e: any) => void) | null} */
  onopen = null;
  /** @type {((e: any) => void) | null} */
  onmessage = null;
  /** @type {((e: any) => void) | null} */
  onclose = null;
  /** @type {((e: any) => void) | null} */
  onerror = null;
  #server;

  /** @param {string} url @param {MemoryServer} server */
  constructor(url, server) {
    this.url = url;
    this.#server = server;
    queueMicrotask(() => {
      if (this.readyState) return;
      this.readyState = 1;
      this.onopen?.({});
    });
  }

  /** @param {string} text */
  send(text) {
    if (this.readyState !== 1) return;
    for (const frame of decode(text)) this.#server.take(this, frame);
  }

  /** @param {number} [code] */
  close(code = 1000) {
    this.end(code);
  }

  /** @param {any} frame */
  deliver(frame) {
    const data = JSON.stringify(frame);
    queueMicrotask(() => this.readyState === 1 && this.onmessage?.({ data }));
  }

  /** @param {number} code @param {string} [reason] */
  end(code, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#server.gone(this);
    queueMicrotask(() => this.onclose?.({ code, reason }));
  }
}
