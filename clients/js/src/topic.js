import { cursorOf } from "./cursor.js";
import { FairleadError } from "./errors.js";
import { parse } from "./position.js";
import { presenceOf } from "./presence.js";

/** @typedef {import("./subscription.js").Message} Message */
/** @typedef {import("./listeners.js").Off} Off */

/**
 * @typedef {object} PublishOptions
 * @property {string} [key] names this publish: it is stored once however often it is sent, and may therefore wait for a connection
 * @property {boolean} [echo] false: this connection doesn't receive it
 * @property {number} [timeout] milliseconds
 * @property {AbortSignal} [signal]
 */

/**
 * A topic as this client sees it: a light handle, any number of which share one subscription.
 * @template {Record<string, any>} [E=Record<string, any>] data by event
 */
export class Topic {
  #session;
  #o;

  /**
   * @param {import("./session.js").Session} session
   * @param {string} name
   * @param {import("./subscription.js").TopicOptions} [o]
   */
  constructor(session, name, o = {}) {
    this.name = name;
    this.#session = session;
    this.#o = o;
    /** Who is there. */
    this.presence = presenceOf(session, name, o);
    /** Pointers of the users, never stored. */
    this.cursor = cursorOf(session, name, o);
  }

  /**
   * Listens; the first listener of a topic subscribes to it, the end of the last one unsubscribes.
   * `"*"` hears every event. Those with `$` are the client's own: `$subscribed` (again after every reconnect; its
   * `recovered` says that nothing was missed, `missingFrom` what is gone, `reason` why the past can't be read now: it is
   * asked for again), `$truncated` (something was missed), `$denied` with the error.
   * @overload
   * @param {"$subscribed"} event
   * @param {(s: { recovered: boolean, position: import("./position.js").Position, missingFrom?: number, reason?: string }) => void} fn
   * @returns {Off}
   */
  /**
   * @overload
   * @param {"$truncated"} event
   * @param {(e: { missingFrom?: number }) => void} fn
   * @returns {Off}
   */
  /**
   * @overload
   * @param {"$denied"} event
   * @param {(e: FairleadError) => void} fn
   * @returns {Off}
   */
  /**
   * @template {keyof E & string} K
   * @overload
   * @param {K} event
   * @param {(m: Message & { data: E[K] }) => void} fn
   * @returns {Off}
   */
  /**
   * @overload
   * @param {"*"} event
   * @param {(m: Message) => void} fn
   * @returns {Off}
   */
  /**
   * @param {string} event
   * @param {(e: any) => void} fn
   * @returns {Off}
   */
  on(event, fn) {
    return this.#session.listen(this.name, this.#o, event, fn);
  }

  /**
   * Resolves when the server has stored or passed on the message. Without a connection it rejects, unless it has
   * a `key`: then it waits, and is sent again after a drop.
   * @template {keyof E & string} K
   * @param {K} event
   * @param {E[K]} data
   * @param {PublishOptions} [o]
   * @returns {Promise<{ seq?: number, duplicate?: boolean }>}
   */
  publish(event, data = /** @type {any} */ (null), { key, echo, ...o } = {}) {
    return this.#session.request({ op: "publish", topic: this.name, event, data, key, echo }, { ...o, retry: key !== undefined });
  }

  /**
   * What the topic retains, oldest first.
   * @param {{ after?: import("./position.js").Position, limit?: number, timeout?: number, signal?: AbortSignal }} [o]
   * @returns {Promise<{ messages: Message[], truncated: boolean, more: boolean }>}
   */
  async history({ after, limit, ...o } = {}) {
    const topic = this.name, { seq = 0, ts } = parse(after);
    const reply = await this.#session.request({ op: "history", topic, after: seq, ts, limit }, o);
    return { ...reply, messages: reply.messages.map((/** @type {Message} */ m) => ({ topic, ...m, replayed: true })) };
  }

  /**
   * Every message from here on. Leaving the loop unsubscribes; it ends with the client, and throws when the
   * subscription is denied or the loop falls too far behind (10000 messages).
   * @returns {AsyncGenerator<Message, void, void>}
   */
  async *[Symbol.asyncIterator]() {
    const { ended, listeners } = this.#session;
    /** @type {any[]} */
    let waiting = ended ? [ended] : [];
    let wake = () => {};
    const add = (/** @type {Message | FairleadError} */ next) => {
      if (waiting.push(next) > 10000) waiting = [new FairleadError("RESOURCE_EXHAUSTED", "too many wait")];
      wake();
    };
    const offs = [this.on("*", add), this.on("$denied", add), listeners.add("$end", add)];
    try {
      for (;;) {
        const next = waiting.shift();
        if (!next) await new Promise((resolve) => (wake = /** @type {any} */ (resolve)));
        else if (!(next instanceof FairleadError)) yield next;
        else if (next.code === "CANCELLED") return;
        else throw next;
      }
    } finally {
      offs.forEach((off) => off());
    }
  }
}
