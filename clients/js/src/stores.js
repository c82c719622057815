import { FairleadError } from "./errors.js";

/**
 * Stores after Svelte's contract: `subscribe(fn)` calls `fn` at once and at every change, and returns a function that
 * ends it. A store listens to its topic while somebody is subscribed to it, and begins anew after that.
 */

/** @typedef {import("./topic.js").Topic<any>} Topic */

/**
 * @template T
 * @typedef {object} Readable
 * @property {(fn: (value: T) => void) => () => void} subscribe
 */

/**
 * @typedef {object} ListOptions
 * @property {string} [key] the field that names an item (`id`)
 * @property {boolean} [prepend] new items first
 * @property {number} [maxAge] milliseconds after its last change that an item stays
 */

/**
 * @template T
 * @param {() => T} value
 * @param {(changed: () => void) => () => void} begin
 * @returns {Readable<T>}
 */
function store(value, begin) {
  /** @type {Set<{ fn: (value: T) => void }>} */
  const readers = new Set();
  /** @type {(() => void) | undefined} */
  let end;
  const changed = () => {
    const now = value();
    for (const { fn } of [...readers]) fn(now);
  };
  return {
    subscribe(fn) {
      const reader = { fn };
      readers.add(reader);
      if (readers.size === 1) end = begin(changed);
      fn(value());
      return () => {
        if (readers.delete(reader) && !readers.size) end?.();
      };
    },
  };
}

/**
 * Items by key, kept by the events `created`, `updated` and `deleted`; data without a key is ignored.
 * @param {Topic} topic
 * @param {() => any[]} initial
 * @param {ListOptions} o
 * @param {(items: Map<unknown, any>) => any} shape
 */
function items(topic, initial, { key = "id", prepend = false, maxAge }, shape) {
  /** @type {Map<unknown, { item: any, at: number }>} */
  let byKey = new Map();
  const put = (/** @type {any} */ item) => {
    const id = item?.[key];
    if (id === undefined || id === null) return false;
    const known = byKey.has(id);
    if (prepend && !known) byKey = new Map([[id, { item, at: Date.now() }], ...byKey]);
    else byKey.set(id, { item, at: Date.now() });
    return true;
  };
  const reset = () => {
    byKey = new Map();
    const all = initial();
    for (const item of prepend ? [...all].reverse() : all) put(item);
  };
  reset();
  return store(
    () => shape(new Map([...byKey].map(([id, { item }]) => [id, item]))),
    (changed) => {
      const offs = [
        topic.on("created", ({ data }) => void (put(data) && changed())),
        topic.on("updated", ({ data }) => void (put(data) && changed())),
        topic.on("deleted", ({ data }) => void (byKey.delete(data?.[key] ?? data) && changed())),
      ];
      if (maxAge) {
        const sweep = setInterval(() => {
          const before = byKey.size, oldest = Date.now() - maxAge;
          for (const [id, { at }] of byKey) if (at <= oldest) byKey.delete(id);
          if (byKey.size !== before) changed();
        }, Math.max(maxAge / 2, 1000));
        offs.push(() => clearInterval(sweep));
      }
      return () => {
        offs.forEach((off) => off());
        reset();
      };
    },
  );
}

/**
 * A list kept by `created`, `updated` and `deleted`.
 * @param {Topic} topic
 * @param {any[]} [initial]
 * @param {ListOptions} [o]
 * @returns {Readable<any[]>}
 */
export const crud = (topic, initial = [], o = {}) => items(topic, () => initial, o, (all) => [...all.values()]);

/**
 * The same as an object by key, without a prototype.
 * @param {Topic} topic
 * @param {any[]} [initial]
 * @param {Omit<ListOptions, "prepend">} [o]
 * @returns {Readable<Record<string, any>>}
 */
export const lookup = (topic, initial = [], o = {}) =>
  items(topic, () => initial, o, (all) => {
    const object = Object.create(null);
    for (const [id, item] of all) object[/** @type {string} */ (id)] = item;
    return object;
  });

/**
 * The newest messages, oldest first.
 * @param {Topic} topic
 * @param {number} [max]
 * @returns {Readable<import("./subscription.js").Message[]>}
 */
export function latest(topic, max = 50) {
  /** @type {import("./subscription.js").Message[]} */
  let messages = [];
  return store(() => messages, (changed) => {
    const off = topic.on("*", (message) => {
      messages = [...messages, message].slice(-max);
      changed();
    });
    return () => {
      off();
      messages = [];
    };
  });
}

/**
 * A number: `set` replaces it, `increment` and `decrement` change it by their data, or by one.
 * @param {Topic} topic
 * @param {number} [initial]
 * @returns {Readable<number>}
 */
export function count(topic, initial = 0) {
  let n = initial;
  return store(() => n, (changed) => {
    const offs = [["set", 0], ["increment", 1], ["decrement", -1]].map(([event, sign]) =>
      topic.on(/** @type {string} */ (event), ({ data }) => {
        const by = typeof data === "number" ? data : 1;
        if (sign) n += by * /** @type {number} */ (sign);
        else if (typeof data === "number") n = data;
        else return;
        changed();
      }));
    return () => {
      offs.forEach((off) => off());
      n = initial;
    };
  });
}

/**
 * Who is on a topic, by user; of a topic with too many, some of them.
 * @param {Topic} topic
 * @returns {Readable<import("./subscription.js").Members>}
 */
export function members(topic) {
  /** @type {import("./subscription.js").Members} */
  let all = {};
  return store(() => all, (changed) => {
    const off = topic.presence.on((now) => {
      all = { ...now };
      changed();
    });
    return () => {
      off();
      all = {};
    };
  });
}

/**
 * The client's state.
 * @param {import("./client.js").Client<any>} client
 * @returns {Readable<import("./connection.js").State>}
 */
export const status = (client) => store(() => client.state, (changed) => client.on("state", changed));

/**
 * What the gateway lacks at the moment (`nats`, `replay`, `presence`, `ratelimit`), as it said on the connection of now; empty when all
 * is well.
 * @param {import("./client.js").Client} client
 * @returns {Readable<string[]>}
 */
export function degraded(client) {
  /** @type {Set<string>} */
  let now = new Set();
  return store(() => [...now].sort(), (changed) => {
    const offs = [
      client.on("system", ({ event, what }) => {
        if (event === "degraded" ? now.has(what) : event !== "recovered" || !now.has(what)) return;
        event === "degraded" ? now.add(what) : now.delete(what);
        changed();
      }),
      client.on("state", ({ state }) => {
        if (state === "open" || !now.size) return; // another gateway says for itself how it is
        now.clear();
        changed();
      }),
    ];
    return () => {
      offs.forEach((off) => off());
      now = new Set();
    };
  });
}

/**
 * The newest message of a topic, or of one event of it the newest data; null before the first. Data that are null
 * change nothing.
 * @param {Topic} topic
 * @param {string} [event]
 * @returns {Readable<any>}
 */
export const on = (topic, event) =>
  scan(topic, event ?? "*", null, (before, m) => (m.data === null ? before : event === undefined ? m : m.data));

/**
 * What a function makes of one message after another, begun with `initial`; it is not heard of where that changes nothing.
 * @template T
 * @param {Topic} topic
 * @param {string} event `"*"` for all
 * @param {T} initial
 * @param {(before: T, m: import("./subscription.js").Message) => T} fn
 * @returns {Readable<T>}
 */
export function scan(topic, event, initial, fn) {
  let now = initial;
  return store(() => now, (changed) => {
    const off = topic.on(event, (m) => {
      const before = now;
      now = fn(before, m);
      if (now !== before) changed();
    });
    return () => {
      off();
      now = initial;
    };
  });
}

/**
 * The store of the topic that another store's value leads to, from one topic to the next: `derived(id, (id) => latest(fl.topic("order." + id)))`.
 * Where `fn` returns nothing the value is undefined.
 * @template A, B
 * @param {Readable<A>} source
 * @param {(value: A) => Readable<B> | null | undefined} fn
 * @returns {Readable<B | undefined>}
 */
export function derived(source, fn) {
  /** @type {B | undefined} */
  let now;
  return store(() => now, (changed) => {
    let end = () => {};
    const stop = source.subscribe((value) => {
      const before = end;
      now = undefined;
      const next = fn(value);
      end = next ? next.subscribe((v) => {
        now = v;
        changed();
      }) : () => {};
      before(); // behind the next one: a topic that both have stays subscribed
      if (!next) changed();
    });
    return () => {
      stop();
      end();
      now = undefined;
    };
  });
}

/**
 * Why the newest subscribe of a topic was refused, or the server ended it; null once it is in force.
 * @param {Topic} topic
 * @returns {Readable<import("./errors.js").FairleadError | null>}
 */
export function denials(topic) {
  /** @type {import("./errors.js").FairleadError | null} */
  let now = null;
  return store(() => now, (changed) => {
    const offs = [
      topic.on("$denied", (error) => {
        now = error;
        changed();
      }),
      topic.on("$subscribed", () => {
        if (now === null) return;
        now = null;
        changed();
      }),
    ];
    return () => {
      offs.forEach((off) => off());
      now = null;
    };
  });
}

/**
 * The next message of an event. Rejects with `$denied`'s error, with DEADLINE_EXCEEDED when none comes in time, and with
 * CANCELLED when the signal says so.
 * @param {Topic} topic
 * @param {string} [event] default: any
 * @param {{ timeout?: number, signal?: AbortSignal }} [o] milliseconds; default: no limit
 * @returns {Promise<import("./subscription.js").Message>}
 */
export function once(topic, event = "*", { timeout, signal } = {}) {
  return new Promise((resolve, reject) => {
    /** @type {(() => void)[]} */
    const ends = [];
    const settle = (/** @type {() => void} */ how) => {
      ends.forEach((end) => end());
      how();
    };
    const abort = () => settle(() => reject(new FairleadError("CANCELLED", "aborted", { cause: signal?.reason })));
    if (signal?.aborted) return abort();
    signal?.addEventListener("abort", abort);
    ends.push(() => signal?.removeEventListener("abort", abort));
    if (timeout) {
      const timer = setTimeout(() => settle(() => reject(new FairleadError("DEADLINE_EXCEEDED", "no message came"))), timeout);
      ends.push(() => clearTimeout(timer));
    }
    ends.push(topic.on(event, (m) => settle(() => resolve(m))));
    ends.push(topic.on("$denied", (error) => settle(() => reject(error))));
  });
}
