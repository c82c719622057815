import { isTransient } from "./errors.js";
import { isPattern } from "./match.js";
import { format, parse } from "./position.js";

/**
 * How a subscription begins; what the first holder of a topic says counts for all.
 * @typedef {object} TopicOptions
 * @property {import("./position.js").Position} [since] what came after it is delivered first
 * @property {number} [last] the newest n messages are delivered first
 * @property {boolean} [cursors] receive the users' cursors
 */

/**
 * @typedef {object} Message
 * @property {string} [topic]
 * @property {string} [group]
 * @property {string} event
 * @property {any} data
 * @property {string} [text] in place of `data`: published as text that is no JSON
 * @property {string} [base64] in place of `data`: published as bytes that are no text
 * @property {string} [from] who published it, where the topic's rule shows that
 * @property {number} [seq] its number, where the topic is kept
 * @property {number} [prev] the number of the message before it on the topic
 * @property {number} [ts] milliseconds since 1970
 * @property {boolean} [direct] sent to this user or connection
 * @property {boolean} [replayed] older than the subscription
 */

/** A topic member's public data; both parts are text of others, not to be trusted. @typedef {Record<string, { info?: any, data?: any }>} Members */

/** What this session wants of one topic and what it has of it. It lives from the first hold to the last release. */
export class Subscription {
  holds = 0;
  watchers = 0;
  /** Data this user joined with. @type {{ data?: unknown } | undefined} */
  joined;
  /** The join under way; other changes wait for its answer. @type {{ data?: unknown } | undefined} */
  joining;
  /** Who is there; undefined = not known. @type {Members | undefined} */
  members;
  /** @type {Record<string, unknown>} */
  cursors = Object.create(null);
  /** Names the subscribe under way or in force; undefined = the server has none that counts. @type {object | undefined} */
  wire;
  /** The fields of the last subscribe no longer say what is wanted. */
  stale = false;
  /** The server may have a subscription that no longer counts: it is to be ended before the next. */
  ghost = false;
  /** The subscribe in force was answered. */
  live = false;
  /** Everything up to here was delivered; a wildcard has no position. @type {{ seq?: number, ts?: number }} */
  at;

  #head = 0;
  #failures = 0;
  /** The past behind `at` could not be read. */
  #blind = false;
  /** What was delivered ahead of it, and comes again with it. @type {Set<string>} */
  #early = new Set();
  /** By rev, the state of which more is to come. @type {Record<number, Members>} */
  #pages = {};

  /**
   * @param {string} topic
   * @param {TopicOptions} o
   * @param {import("./listeners.js").Listeners} listeners
   */
  constructor(topic, o, listeners) {
    this.topic = topic;
    this.pattern = isPattern(topic);
    this.o = o;
    this.listeners = listeners;
    this.at = this.pattern ? {} : parse(o.since);
  }

  /** The subscribe frame that says what is wanted now. */
  frame() {
    const { seq: after, ts } = this.at;
    const presence = this.joined ? "join" : this.watchers ? "watch" : undefined;
    if (!presence) this.members = undefined;
    return {
      op: "subscribe",
      topic: this.topic,
      after,
      ts,
      last: after === undefined ? this.o.last : undefined,
      presence,
      data: this.joined?.data,
      cursors: this.o.cursors || undefined,
    };
  }

  /** The connection is gone, and with it what the server had. */
  down() {
    this.wire = undefined;
    this.#pages = {};
    this.live = this.ghost = false;
  }

  /**
   * @param {any} [ok] the reply to subscribe; none: the server did it by itself
   * @param {boolean} [resumed] whether it named a position
   * @returns {number | undefined} milliseconds to wait before asking for the past again
   */
  accepted({ seq, ts, head = 0, recovered = false, missingFrom, reason } = {}, resumed = false) {
    if (this.live) return; // new fields of the same subscription: it goes on where it is
    this.live = true;
    this.wire ??= {};
    this.#blind = isTransient({ code: reason });
    if (!this.#blind && seq !== undefined && !this.pattern) this.at = { seq, ts };
    this.#head = head;
    this.listeners.emit("$subscribed", { recovered: resumed && recovered, position: format(this.at), missingFrom, reason });
    if (this.#blind) return this.#wait();
    this.#failures = 0;
  }

  /** @param {import("./errors.js").FairleadError} error @returns {number | boolean} milliseconds to wait before trying again, or whether anybody heard of it */
  refused(error) {
    this.down();
    if (isTransient(error)) return error.retryAfter ?? this.#wait();
    return this.listeners.emit("$denied", error);
  }

  /** Milliseconds until the next attempt to subscribe. */
  #wait() {
    return Math.min(1000 * 2 ** this.#failures++, 30000);
  }

  /** @param {Message} message */
  message(message) {
    if (!this.live && !message.direct) return; // left over from an earlier subscription
    if (message.seq !== undefined && !this.pattern) {
      if (!this.#moved(message)) return;
      if (message.seq <= this.#head) message = { ...message, replayed: true };
    }
    this.listeners.emit(message.event, message);
    this.listeners.emit("*", message);
  }

  /**
   * Whether a message is new, not one already seen; a later time under an old number is another log, hence new.
   * @param {{ seq?: number, ts?: number }} to
   */
  #moved({ seq = 0, ts = 0 }) {
    const early = this.#early, name = format({ seq, ts });
    // No more than so many run ahead of a past to come: the rest wait for it.
    if (this.#blind) return !early.has(name) && early.size < 10000 && !!early.add(name);
    if (seq <= (this.at.seq ?? -1) && ts <= (this.at.ts ?? Infinity)) return false;
    this.at = { seq, ts };
    return !early.delete(name);
  }

  /** @param {import("./frame.js").Frame} frame */
  control(frame) {
    if (frame.op === "skip") this.#moved(frame);
    else if (frame.op === "truncated") this.#blind || this.listeners.emit("$truncated", { missingFrom: frame.missingFrom });
    else if (frame.op === "presence") this.#presence(frame);
    else if (frame.op === "cursors") {
      if (frame.all) this.cursors = Object.create(null);
      for (const key of frame.gone ?? []) delete this.cursors[key];
      Object.assign(this.cursors, frame.all, frame.moved);
      this.listeners.emit("$cursors", this.cursors);
    }
  }

  /** @param {import("./frame.js").Frame} frame */
  #presence({ rev, state, more, count, sample, joins = Object.create(null), leaves = Object.create(null) }) {
    const before = this.members ?? Object.create(null), whole = state ?? sample;
    let now = before;
    if (whole) {
      now = Object.assign(this.#pages[rev] ?? Object.create(null), whole);
      this.#pages = more ? { [rev]: now } : {};
      if (more) return;
      for (const key in now) if (JSON.stringify(now[key]) !== JSON.stringify(before[key])) joins[key] = now[key];
      for (const key in before) if (!(key in now)) leaves[key] = before[key];
    } else {
      for (const key in leaves) delete now[key];
      Object.assign(now, joins);
    }
    this.members = now;
    this.tell(joins, leaves, count);
  }

  /** Tells who is there, once that is known. @param {Members} joined @param {Members} left @param {number} [count] */
  tell(joined, left, count) {
    if (this.members) this.listeners.emit("$presence", this.members, { joined, left, count });
  }
}
