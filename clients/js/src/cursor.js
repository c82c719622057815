/**
 * The users' pointers on a topic: latest wins, nothing is kept.
 * @param {import("./session.js").Session} session
 * @param {string} topic
 * @param {import("./subscription.js").TopicOptions} o
 */
export const cursorOf = (session, topic, o) => ({
  /**
   * Moves one's own; without a connection it is forgotten. A refusal reaches the client's `error` listeners.
   * @param {unknown} data ≤ 1 KiB; null removes it
   */
  move(data = null) {
    session.start();
    session.post({ op: "cursor", topic, data });
  },

  /**
   * @param {(all: Record<string, unknown>) => void} fn hears all cursors by user at every change
   * @returns {import("./listeners.js").Off}
   */
  on(fn) {
    const sub = session.hold(topic, { ...o, cursors: true });
    return sub.listeners.add("$cursors", fn, () => session.release(sub));
  },
});
