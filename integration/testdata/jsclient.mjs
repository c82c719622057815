// The JavaScript client as a process: a line of JSON on standard input is what to do, a line on standard output is
// what happened. FAIRLEAD_STORED is what sessionStorage holds at the beginning.
import { createInterface } from "node:readline";
import { WebSocket } from "../../clients/js/node_modules/ws/wrapper.mjs";
import { connect, FairleadError } from "../../clients/js/src/index.js";

const say = (what, fields) => process.stdout.write(JSON.stringify({ what, ...fields }) + "\n");

// The part of a page that the client looks at.
const stored = new Map(Object.entries(JSON.parse(process.env.FAIRLEAD_STORED) ?? {}));
const page = new EventTarget();
globalThis.sessionStorage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => void stored.set(key, value) };
globalThis.document = { visibilityState: "visible" };
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);

let fl;
const aborts = new Map();
const outcome = (id) => [
  (ok) => say("published", { id, ...ok }),
  ({ code, outcome }) => say("failed", { id, code, outcome }),
];
const actions = {
  connect({ url, ...options }) {
    fl = connect(url, { WebSocket, ...options });
    fl.on("state", ({ state, cause }) => say("state", { state, code: cause?.code, message: cause?.message }));
    fl.on("error", (error) => say("error", { code: error.code, message: error.message }));
  },
  subscribe({ topic, since, last }) {
    const room = fl.topic(topic, { since, last });
    room.on("$subscribed", (s) => say("subscribed", { topic, ...s }));
    room.on("$truncated", (e) => say("truncated", { topic, ...e }));
    room.on("$denied", ({ code }) => say("denied", { topic, code }));
    room.on("*", ({ data, seq, prev, ts }) => say("message", { topic, data, seq, prev, ts }));
  },
  inbox() {
    fl.inbox(({ topic, event, data }) => say("direct", { topic, event, data }));
    fl.on("system", ({ event, what }) => say("system", { event, topic: what }));
  },
  serve({ event, answers, code, message }) {
    fl.serve(event, async (data) => {
      say("asked", { event, data });
      if (code) throw new FairleadError(code, message);
      if (answers === undefined) await new Promise(() => {});
      return { answers, data };
    });
  },
  call({ method, id, data }) {
    const abort = new AbortController();
    aborts.set(id, abort);
    fl.call(method, data, { signal: abort.signal, onProgress: (data) => say("progress", { id, data }) })
      .then((data) => say("answered", { id, data }), ({ code, message }) => say("failed", { id, code, message }));
  },
  abort({ id }) {
    aborts.get(id).abort();
  },
  cursors({ topic }) {
    fl.topic(topic).cursor.on((data) => say("cursors", { topic, data }));
  },
  move({ topic, data }) {
    fl.topic(topic).cursor.move(data);
  },
  publish({ topic, id, key }) {
    fl.topic(topic).publish("message", id, { key }).then(...outcome(id));
  },
  leave() {
    page.dispatchEvent(new Event("pagehide"));
    say("left", { stored: Object.fromEntries(stored) });
    process.exit();
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const { action, ...fields } = JSON.parse(line);
  actions[action](fields);
}
process.exit();
