// Time and a socket by hand, for tests of what happens when.

/** An environment whose clock moves only by `pass`. */
export class Clock {
  at = 1_000_000;
  chance = 0.5;
  isHidden = false;
  stored = new Map();
  #timers = new Map();
  #next = 1;
  #watchers = new Set();

  env = {
    now: () => this.at,
    random: () => this.chance,
    setTimeout: (fn, ms) => (this.#timers.set(this.#next, { fn, at: this.at + ms }), this.#next++),
    clearTimeout: (id) => void this.#timers.delete(id),
    hidden: () => this.isHidden,
    watch: (on) => (this.#watchers.add(on), () => this.#watchers.delete(on)),
    storage: (name) => name && { getItem: (k) => this.stored.get(k) ?? null, setItem: (k, v) => void this.stored.set(k, v) },
  };

  get timers() {
    return this.#timers.size;
  }

  /** The page's own events. */
  page(event) {
    for (const on of [...this.#watchers]) on[event]?.();
  }

  async pass(ms) {
    const end = this.at + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, t]) => t.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.at = Math.max(this.at, due[1].at);
      due[1].fn();
    }
    this.at = end;
    await settle();
  }
}

/** Lets every promise that can settle do so. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** A WebSocket class whose instances are driven by the test. */
export function sockets(clock) {
  const opened = [];
  class FakeSocket {
    sent = [];
    constructor(url, protocol) {
      Object.assign(this, { url, protocol, at: clock.at });
      opened.push(this);
    }
    send(text) {
      this.sent.push(...[JSON.parse(text)].flat());
    }
    close(code) {
      this.closedWith = code;
    }
    /** Opens and answers hello. */
    async accept(ok = {}) {
      await settle();
      this.onopen({});
      await settle();
      this.receive({ id: this.sent.find((f) => f.op === "hello").id, ok: { conn: "c" + opened.length, user: "ann", session: "s1", heartbeatMs: 25000, ...ok } });
      await settle();
    }
    receive(frame) {
      this.onmessage({ data: JSON.stringify(frame) });
    }
    drop(code, reason = "") {
      this.onclose({ code, reason });
    }
  }
  return { opened, FakeSocket, last: () => opened.at(-1) };
}
