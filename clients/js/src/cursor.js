/** The users' pointers on a topic: latest wins, nothing is kept. */
export class Cursor {
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
   * Moves one's own; without a connection it is forgotten. A refusal reaches the client's `error` listeners.
   * @param {unknown} data ≤ 1 KiB; null removes it
   */
  move(data = null) {
    this.#session.start();
    this.#session.post({ op: "cursor", topic: this.#topic, data });
  }

  /**
   * @param {(all: Record<string, unknown>) => void} fn hears all cursors by user at every change
   * @returns {import("./listeners.js").Off}
   */
  on(fn) {
    const sub = this.#session.hold(this.#topic, { ...this.#o, cursors: true });
    return sub.listeners.add("$cursors", fn, () => this.#session.release(sub));
  }
}
