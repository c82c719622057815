/** @typedef {import("./subscription.js").Members} Members */

/** Who is on a topic, and oneself among them. */
export class Presence {
  #session;
  #topic;
  #o;

  /**
   * @param {import("./session.js").Session} session
   * @param {string} topic
   * @param {import("./subscription.js").TopicOptions} o
   */
  constructor(session, topic, o) {
    this.#session = session;
    this.#topic = topic;
    this.#o = o;
  }

  /**
   * Appears on the topic, again after every reconnect, until `leave`.
   * @param {unknown} [data] public, ≤ 4 KiB
   */
  async join(data) {
    const sub = this.#session.hold(this.#topic, this.#o);
    try {
      await this.#ask("presence.join", { data });
    } catch (error) {
      this.#session.release(sub);
      throw error;
    }
    if (sub.joined) this.#session.release(sub); // held by the first join
    sub.joined = { data };
  }

  async leave() {
    const sub = this.#session.find(this.#topic);
    if (sub?.joined) {
      sub.joined = undefined;
      this.#session.release(sub);
    }
    await this.#ask("presence.leave", {});
  }

  /** @param {unknown} data */
  async update(data) {
    await this.#ask("presence.update", { data });
    const sub = this.#session.find(this.#topic);
    if (sub?.joined) sub.joined = { data };
  }

  /** @returns {Promise<Members>} */
  async list() {
    return (await this.#ask("presence", {})).users ?? {};
  }

  /**
   * Hears every change; `left` is already out of `all`.
   * @param {(all: Members, change: { joined: Members, left: Members }) => void} fn
   * @returns {import("./listeners.js").Off}
   */
  on(fn) {
    const sub = this.#session.hold(this.#topic, this.#o);
    if (!sub.watchers++ && !sub.joined) {
      sub.stale = true;
      this.#session.touch(sub);
    }
    return sub.listeners.add("$presence", fn, () => {
      sub.watchers--;
      this.#session.release(sub);
    });
  }

  /** @param {string} op @param {object} fields */
  #ask(op, fields) {
    return this.#session.request({ op, topic: this.#topic, ...fields });
  }
}
