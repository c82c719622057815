/** @typedef {import("./subscription.js").Members} Members */

/**
 * Who is on a topic, and oneself among them.
 * @param {import("./session.js").Session} session
 * @param {string} topic
 * @param {import("./subscription.js").TopicOptions} o
 */
export function presenceOf(session, topic, o) {
  const ask = (/** @type {string} */ op, /** @type {object} */ fields = {}) => session.request({ op, topic, ...fields });
  return {
    /**
     * Appears on the topic, again after every reconnect, until `leave`.
     * @param {unknown} [data] public, ≤ 4 KiB
     * @returns {Promise<void>}
     */
    async join(data) {
      const sub = session.hold(topic, o), mine = (sub.joining = { data });
      let kept;
      try {
        await ask("presence.join", mine);
        if (sub.joining === mine) {
          kept = !sub.joined; // else an earlier join holds it
          sub.joined = mine;
        }
      } finally {
        if (sub.joining === mine) sub.joining = undefined;
        if (!kept) session.release(sub);
        if (sub.stale) session.touch(sub);
      }
    },

    /** Where there is no connection to say so it rejects, and the next one does not appear either. @returns {Promise<void>} */
    async leave() {
      const sub = session.subs.get(topic), joined = sub?.joined;
      if (sub) sub.joined = sub.joining = undefined;
      try {
        await ask("presence.leave");
      } finally {
        if (joined) session.release(sub, true);
      }
    },

    /** @param {unknown} data @returns {Promise<void>} */
    async update(data) {
      await ask("presence.update", { data });
      const sub = session.subs.get(topic);
      if (sub?.joined) sub.joined = { data };
    },

    /** Everybody, read page by page. @returns {Promise<Members>} */
    async list() {
      const all = Object.create(null);
      let page;
      do {
        page = await ask("presence", { limit: 1000, cursor: page?.cursor });
        Object.assign(all, page.users);
      } while (page.cursor);
      return all;
    },

    /**
     * Hears who is there, then every change: `joined` also has those whose data changed, `left` are already out of
     * `all`. On a topic with too many for that `count` says how many there are, and `all` has some of them.
     * @param {(all: Members, change: { joined: Members, left: Members, count?: number }) => void} fn
     * @returns {import("./listeners.js").Off}
     */
    on(fn) {
      const sub = session.hold(topic, o);
      if (!sub.watchers++) session.touch(sub, true);
      queueMicrotask(() => sub.tell({}, {}));
      return sub.listeners.add("$presence", fn, () => session.release(sub, !--sub.watchers));
    },
  };
}
