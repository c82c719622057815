import { isTransient } from "./errors.js";
import { listenersOf } from "./listeners.js";

/** @typedef {{ role?: string, data?: any }} Member one connection of a group */

/** A named set of connections that know each other; joined again after every reconnect. */
export class Group {
  #session;
  #listeners;
  /** What it was joined with. @type {Member | undefined} */
  #joined;
  /** The join under way. @type {Member | undefined} */
  #joining;

  /** @param {import("./session.js").Session} session @param {string} name */
  constructor(session, name) {
    this.#session = session;
    this.name = name;
    this.#listeners = listenersOf(session.report);
  }

  /**
   * @param {Member} [o]
   * @returns {Promise<{ count: number, meta: any, member: string }>}
   */
  async join(o = {}) {
    this.#joining = o;
    const reply = await this.#ask("group.join", o);
    if (this.#joining === o) this.#joined = o;
    return reply;
  }

  /** Where there is no connection to say so it rejects, and the next one has no seat either. @returns {Promise<void>} */
  leave() {
    this.#joined = this.#joining = undefined;
    return this.#ask("group.leave");
  }

  /**
   * To all members, or to those of one role.
   * @param {string} event @param {unknown} data @param {{ role?: string }} [o]
   * @returns {Promise<void>}
   */
  publish(event, data, o) {
    return this.#ask("group.publish", { event, data, role: o?.role });
  }

  /** To one member. @param {string} member @param {string} event @param {unknown} data @returns {Promise<void>} */
  send(member, event, data) {
    return this.#ask("group.send", { member, event, data });
  }

  /** @returns {Promise<{ members: Record<string, Member>, count: number, meta: any }>} */
  members() {
    return this.#ask("group.members");
  }

  /** Reads what the group says of itself, or sets it. @param {unknown} [meta] @returns {Promise<any>} */
  async meta(meta) {
    return (await this.#ask("group.meta", { meta })).meta;
  }

  /**
   * Hears the group's messages by event (`"*"`: all), and its changes: `$joined` (also of those whose data changed) and
   * `$left` with members by id, `$meta`, `$closed`. After a reconnect, which missed changes, `$rejoined` with what `join`
   * returns; or `$lost` with the error: where that may pass the seat is asked for again.
   * @param {string} event
   * @param {(e: any) => void} fn
   */
  on(event, fn) {
    this.#session.start();
    return this.#listeners.add(event, fn);
  }

  /** Takes the seat again on a new connection. */
  rejoin() {
    const joined = this.#joined, session = this.#session;
    if (!joined) return;
    this.#ask("group.join", joined).then((reply) => this.#listeners.emit("$rejoined", reply), (error) => {
      if (this.#joined !== joined || session.connection.state !== "open") return;
      if (isTransient(error)) session.later(() => this.rejoin(), error.retryAfter ?? 1000); // seats of a gateway that died are free before long
      else this.#joined = undefined;
      if (!this.#listeners.emit("$lost", error)) session.report(error);
    });
  }

  /** @param {import("./subscription.js").Message} message */
  message(message) {
    this.#listeners.emit(message.event, message);
    this.#listeners.emit("*", message);
  }

  /** @param {import("./frame.js").Frame} frame */
  control(frame) {
    for (const what in frame) this.#listeners.emit("$" + what, frame[what]);
    if (frame.closed || frame.left?.[/** @type {string} */ (this.#session.connection.conn)]) this.#joined = undefined;
  }

  /** @param {string} op @param {object} [fields] */
  #ask(op, fields) {
    return this.#session.request({ op, group: this.name, ...fields });
  }
}
