/** Milliseconds between two moves on the wire. */
const pace = 16;

/**
 * This user's cursor on a topic.
 * @typedef {object} Own
 * @property {object} [frame] the newest move
 * @property {object} [sent] the last one that went out
 * @property {number} at when it moved, in milliseconds since 1970; 0: it was removed
 * @property {unknown} [timer] until when the next one waits
 */

/**
 * The users' pointers on a topic: latest wins, nothing is kept.
 * @param {import("./session.js").Session} session
 * @param {string} topic
 * @param {import("./subscription.js").TopicOptions} o
 */
export const cursorOf = (session, topic, o) => ({
  /**
   * Moves one's own on a topic that one is subscribed to: the first move goes out at once, of those within 16 ms the newest. Without
   * a connection it waits: the next one is told where it was last, unless that is half a minute ago. A refusal reaches the client's
   * `error` listeners.
   * @param {unknown} data ≤ 1 KiB; null removes it
   */
  move(data = null) {
    const { cursors, env } = session;
    /** @type {Own} */
    const own = cursors.get(topic) ?? { at: 0 };
    const send = () => {
      own.timer = env.setTimeout(() => {
        own.timer = undefined;
        if (own.sent !== own.frame) send();
      }, pace);
      // A subscribe of the same tick goes first; an end of it ends this too.
      queueMicrotask(() => {
        own.sent = own.frame;
        if (cursors.get(topic) === own) session.post(own.frame);
      });
    };
    session.start();
    own.frame = { op: "cursor", topic, data: JSON.parse(JSON.stringify(data)) };
    own.at = data === null ? 0 : env.now();
    cursors.set(topic, own);
    if (!own.timer) send();
  },

  /**
   * @param {(all: Record<string, unknown>) => void} fn hears all cursors by user, one's own too, at every change
   * @returns {import("./listeners.js").Off}
   */
  on: (fn) => session.listen(topic, { ...o, cursors: true }, "$cursors", fn),
});
