import { FairleadError } from "./errors.js";

/**
 * Presence and groups of a server in memory, for tests: no delays, no rights, and a member is gone as soon as its
 * connection is.
 */

/**
 * One connection.
 * @typedef {object} Peer
 * @property {string} conn
 * @property {string} user
 * @property {(frame: any) => void} deliver
 */

/** @param {number} limit */
const full = (limit) => new FairleadError("RESOURCE_EXHAUSTED", "there is no room for another member", { retryAfter: 1000, details: { limit } });

/** Who is on which topic, and who watches that. */
export class Rooms {
  /** The most users on a topic. */
  maxMembers = Infinity;
  /** @type {Map<string, { rev: number, shown: Record<string, any>, watching: Set<Peer>, joined: Map<Peer, { data?: unknown, order: number }> }>} */
  #rooms = new Map();
  #next = 1;

  /** @param {string} topic */
  #room(topic) {
    const shown = /** @type {Record<string, any>} */ ({});
    return this.#rooms.get(topic) ?? { rev: 0, shown, watching: new Set(), joined: new Map() };
  }

  /** What a peer is on a topic. @param {Peer} peer @param {string} topic */
  of(peer, topic) {
    const { watching, joined } = this.#room(topic);
    return { watching: watching.has(peer), joined: joined.get(peer) };
  }

  /** Throws where the peer's user would be one too many. @param {Peer} peer @param {string} topic */
  check(peer, topic) {
    const users = new Set([...this.#room(topic).joined.keys()].map((p) => p.user));
    if (!users.has(peer.user) && users.size >= this.maxMembers) throw full(this.maxMembers);
  }

  /**
   * Makes a peer on a topic what it is to be, and tells those who watch.
   * @param {Peer} peer
   * @param {string} topic
   * @param {boolean} watching
   * @param {{ data?: unknown }} [joined]
   */
  set(peer, topic, watching, joined) {
    const room = this.#room(topic), fresh = watching && !room.watching.has(peer);
    this.#rooms.set(topic, room);
    if (joined) room.joined.set(peer, { data: joined.data, order: room.joined.get(peer)?.order ?? this.#next++ });
    else room.joined.delete(peer);
    if (watching) room.watching.add(peer);
    else room.watching.delete(peer);
    const now = members(room.joined), joins = changed(now, room.shown), leaves = changed(room.shown, now, true);
    room.shown = now;
    if (joins || leaves) {
      room.rev++;
      for (const p of room.watching) if (p !== peer || !fresh) p.deliver({ op: "presence", topic, rev: room.rev, joins, leaves });
    }
    if (fresh) peer.deliver({ op: "presence", topic, rev: (room.rev ||= 1), state: now });
    if (!room.watching.size && !room.joined.size) this.#rooms.delete(topic);
  }

  /** A page of who is there. @param {string} topic @param {number} [limit] @param {string} [cursor] the last user of the page before */
  list(topic, limit = 100, cursor = "") {
    const { rev, shown } = this.#room(topic), all = Object.keys(shown).sort();
    const page = all.filter((user) => user > cursor).slice(0, limit);
    return {
      users: Object.fromEntries(page.map((user) => [user, shown[user]])),
      count: all.length,
      rev,
      cursor: page.length && page.at(-1) !== all.at(-1) ? page.at(-1) : undefined,
    };
  }

  /** @param {Peer} peer */
  gone(peer) {
    for (const topic of [...this.#rooms.keys()]) this.set(peer, topic, false);
  }
}

/** The newest connection of a user speaks for it. @param {Map<Peer, { data?: unknown, order: number }>} joined */
function members(joined) {
  /** @type {Record<string, any>} */
  const all = {};
  for (const [{ user }, { data }] of [...joined].sort(([, a], [, b]) => a.order - b.order)) all[user] = data === undefined || data === null ? {} : { data };
  return all;
}

/**
 * Those of `a` that `b` lacks or, unless only absence counts, has otherwise; undefined = none.
 * @param {Record<string, any>} a @param {Record<string, any>} b @param {boolean} [absent]
 */
function changed(a, b, absent) {
  const some = Object.entries(a).filter(([key, value]) => (absent ? !(key in b) : JSON.stringify(value) !== JSON.stringify(b[key])));
  return some.length ? Object.fromEntries(some) : undefined;
}

/** Where the cursors of a topic's users are. A user's newest move counts, whichever connection it came on. */
export class Cursors {
  /** @type {Map<string, { watching: Set<Peer>, at: Map<string, { peer: Peer, data: any }> }>} */
  #topics = new Map();

  /** @param {string} topic */
  #topic(topic) {
    const t = this.#topics.get(topic) ?? { watching: new Set(), at: new Map() };
    this.#topics.set(topic, t);
    return t;
  }

  /** @param {Peer} peer @param {string} topic @param {boolean} on */
  watch(peer, topic, on) {
    const { watching, at } = this.#topic(topic), fresh = on && !watching.has(peer);
    if (on) watching.add(peer);
    else watching.delete(peer);
    if (fresh) peer.deliver({ op: "cursors", topic, all: Object.fromEntries([...at].map(([user, { data }]) => [user, data])) });
  }

  /** @param {Peer} peer @param {string} topic @param {any} data null removes it */
  move(peer, topic, data) {
    const { watching, at } = this.#topic(topic), { user } = peer, gone = data === null || data === undefined;
    if (gone && !at.delete(user)) return;
    if (!gone) at.set(user, { peer, data });
    for (const p of watching) p.deliver({ op: "cursors", topic, ...(gone ? { gone: [user] } : { moved: { [user]: data } }) });
  }

  /** @param {Peer} peer @param {string} topic */
  leave(peer, topic) {
    const { watching, at } = this.#topic(topic);
    watching.delete(peer);
    if (at.get(peer.user)?.peer === peer) this.move(peer, topic, null);
    if (!watching.size && !at.size) this.#topics.delete(topic);
  }

  /** @param {Peer} peer */
  gone(peer) {
    for (const topic of [...this.#topics.keys()]) this.leave(peer, topic);
  }
}

/** The groups and who has a seat in them. */
export class Groups {
  /** The most connections of a group. */
  maxMembers = Infinity;
  /** @type {Map<string, { meta: any, closed: boolean, seats: Map<Peer, { role: string, data?: unknown }> }>} */
  #groups = new Map();

  /** Runs an op; what it returns is the answer. @param {Peer} peer @param {any} frame */
  run(peer, { op, group: name, role, data, event = "message", member, meta }) {
    const group = this.#groups.get(name) ?? { meta: null, closed: false, seats: new Map() };
    const { seats } = group;
    if (op === "group.leave") return this.#leave(peer, name), {};
    if (op === "group.join") {
      if (group.closed) throw new FairleadError("FAILED_PRECONDITION", "the group is closed");
      if (!seats.has(peer) && seats.size >= this.maxMembers) throw full(this.maxMembers);
      this.#groups.set(name, group);
      const seat = { role: role ?? "member", data: data ?? undefined };
      seats.set(peer, seat);
      this.#tell(name, { op: "group", joined: { [peer.conn]: seat } }, (p) => p !== peer);
      return { count: seats.size, meta: group.meta, member: peer.conn };
    }
    if (!seats.has(peer)) throw new FairleadError("FAILED_PRECONDITION", "not a member of the group");
    switch (op) {
      case "group.publish":
        this.#tell(name, { event, data: data ?? null, from: peer.user }, (p) => !role || seats.get(p)?.role === role);
        return {};
      case "group.send":
        if (![...seats.keys()].some((p) => p.conn === member)) throw new FairleadError("NOT_FOUND", "member: not in the group");
        this.#tell(name, { event, data: data ?? null, from: peer.user }, (p) => p.conn === member);
        return {};
      case "group.meta":
        if (meta !== undefined) this.#tell(name, { op: "group", meta: (group.meta = meta) }, () => true);
        return { meta: group.meta };
      default:
        return { members: Object.fromEntries([...seats].map(([p, seat]) => [p.conn, seat])), count: seats.size, meta: group.meta };
    }
  }

  /** Nobody is in it any more, nor can be. @param {string} name */
  close(name) {
    this.#tell(name, { op: "group", closed: true }, () => true);
    this.#groups.set(name, { meta: null, closed: true, seats: new Map() });
  }

  /** @param {Peer} peer */
  gone(peer) {
    for (const name of this.#groups.keys()) this.#leave(peer, name);
  }

  /** @param {Peer} peer @param {string} name */
  #leave(peer, name) {
    const seats = this.#groups.get(name)?.seats, seat = seats?.get(peer);
    if (seats?.delete(peer)) this.#tell(name, { op: "group", left: { [peer.conn]: seat } }, () => true);
  }

  /** @param {string} name @param {any} frame @param {(peer: Peer) => boolean} who */
  #tell(name, frame, who) {
    for (const peer of this.#groups.get(name)?.seats.keys() ?? []) if (who(peer)) peer.deliver({ group: name, ...frame });
  }
}
