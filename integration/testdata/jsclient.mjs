// The JavaScript client as a process: a line of JSON on standard input is what to do, a line on standard output is
// what happened. FAIRLEAD_STORED is what sessionStorage holds at the beginning.
import { createInterface } from "node:readline";
import { WebSocket } from "../../clients/js/node_modules/ws/wrapper.mjs";
import { connect } from "../../clients/js/src/index.js";

const say = (what, fields) => process.stdout.write(JSON.stringify({ what, ...fields }) + "\n");

// The part of a page that the client looks at.
const stored = new Map(Object.entries(JSON.parse(process.env.FAIRLEAD_STORED) ?? {}));
const page = new EventTarget();
globalThis.sessionStorage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => void stored.set(key, value) };
globalThis.document = { visibilityState: "visible" };
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);

let fl;
const outcome = (id) => [
  (ok) => say("published", { id, ...ok }),
  ({ code, outcome }) => say("failed", { id, code, outcome }),
];
const actions = {
  connect({ url, ...options }) {
    fl = connect(url, { WebSocket, ...options });
    fl.on("state", ({ state }) => say("state", { state }));
    fl.on("error", (error) => say("error", { code: error.code, message: error.message }));
  },
  subscribe({ topic, since, last }) {
    const room = fl.topic(topic, { since, last });
    room.on("$subscribed", (s) => say("subscribed", { topic, ...s }));
    room.on("$truncated", (e) => say("truncated", { topic, ...e }));
    room.on("*", ({ data, seq, prev, ts }) => say("message", { topic, data, seq, prev, ts }));
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
