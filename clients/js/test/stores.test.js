import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../src/index.js";
import { count, crud, latest, lookup, status } from "../src/stores.js";
import { MemoryServer } from "../src/testing.js";

/** Two clients on one server in memory. */
function setup(t) {
  const server = new MemoryServer();
  const [ann, bob] = ["ann", "bob"].map((token) => connect("ws://test/ws", { WebSocket: server.WebSocket, token, reconnect: { min: 1, max: 1 } }));
  t.after(() => (ann.close(), bob.close()));
  return { server, ann, bob };
}

/** A store's values; `is` resolves once the newest one deeply equals what is wanted. */
function read(store) {
  const values = [], waiting = new Set();
  const same = (a, b) => { try { assert.deepEqual(a, b); return true; } catch { return false; } };
  const end = store.subscribe((v) => {
    values.push(v);
    for (const w of waiting) if (same(v, w.want)) w.resolve(), waiting.delete(w);
  });
  const is = (want) => new Promise((resolve, reject) => {
    if (same(values.at(-1), want)) return resolve();
    const timer = setTimeout(() => reject(new Error(`store is ${JSON.stringify(values.at(-1))}, want ${JSON.stringify(want)}`)), 2000);
    waiting.add({ want, resolve: () => (clearTimeout(timer), resolve()) });
  });
  return { values, is, end };
}

const subscribed = (topic) => new Promise((resolve) => topic.on("$subscribed", resolve));

test("two clients talk through the server in memory", async (t) => {
  const { server, ann, bob } = setup(t);
  const heard = new Promise((resolve) => ann.topic("chat.*").on("message", resolve));
  await subscribed(ann.topic("chat.*"));
  await bob.topic("chat.lobby").publish("message", { text: "hi" });
  assert.deepEqual(await heard, { topic: "chat.lobby", event: "message", data: { text: "hi" }, from: "bob" });
  server.handle("sum", ([a, b], { user }) => user + (a + b));
  assert.equal(await ann.call("sum", [1, 2]), "ann3");
  await assert.rejects(ann.call("none"), { code: "UNIMPLEMENTED" });
  await assert.rejects(ann.topic("a").history(), { code: "UNIMPLEMENTED" });
  ann.serve("confirm", (data) => data + 1);
  assert.equal(await server.ask(ann.conn, "confirm", 1), 2);
  await assert.rejects(server.ask(bob.conn, "confirm", 1), { code: "UNIMPLEMENTED" });
  const whisper = new Promise((resolve) => ann.inbox(resolve));
  server.send("ann", "whisper", "psst");
  assert.equal((await whisper).data, "psst");
});

test("the server in memory drops and drains; subscriptions come back", async (t) => {
  const { server, ann } = setup(t);
  let n = 0;
  const heard = new Promise((resolve) => ann.topic("a").on("x", resolve));
  const again = new Promise((resolve) => ann.topic("a").on("$subscribed", () => ++n === 3 && resolve()));
  ann.on("state", ({ state }) => state === "open" && n === 1 && queueMicrotask(() => server.drain()));
  await ann.ready();
  await ann.topic("b").publish("x", 1);
  server.drop(1006);
  await ann.ready();
  await ann.topic("b").publish("x", 1, { key: "k" });
  if (n < 3) server.drop(1013);
  await again;
  server.publish("a", "x", 1);
  await heard;
});

test("crud keeps a list by created, updated and deleted", async (t) => {
  const { server, ann } = setup(t);
  const topic = ann.topic("items"), list = read(crud(topic, [{ id: 1 }])), first = read(crud(topic, [{ id: 1 }, { id: 2 }], { prepend: true }));
  assert.deepEqual(list.values, [[{ id: 1 }]]);
  await subscribed(topic);
  server.publish("items", "created", { id: 3, n: 0 });
  server.publish("items", "updated", { id: 1, n: 1 });
  for (const data of [null, {}, 5]) server.publish("items", "created", data);
  await list.is([{ id: 1, n: 1 }, { id: 3, n: 0 }]);
  await first.is([{ id: 3, n: 0 }, { id: 1, n: 1 }, { id: 2 }]);
  server.publish("items", "deleted", { id: 1 });
  await list.is([{ id: 3, n: 0 }]);
  await first.is([{ id: 3, n: 0 }, { id: 2 }]);
});

test("items grow too old", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { ann } = setup(t);
  const list = read(crud(ann.topic("items"), [{ id: 1 }], { maxAge: 3000 }));
  t.mock.timers.tick(1500);
  assert.deepEqual(list.values.at(-1), [{ id: 1 }]);
  t.mock.timers.tick(1500);
  assert.deepEqual(list.values.at(-1), []);
  list.end();
});

test("lookup keeps items by key, latest the newest messages, count a number", async (t) => {
  const { server, ann } = setup(t);
  const topic = ann.topic("items");
  const byId = read(lookup(topic, [], { key: "name" })), recent = read(latest(topic, 2)), n = read(count(ann.topic("n"), 5));
  await Promise.all([subscribed(topic), subscribed(ann.topic("n"))]);
  server.publish("items", "created", { name: "__proto__", n: 1 });
  for (const i of [1, 2, 3]) server.publish("items", "other", i);
  server.publish("n", "increment", 2);
  server.publish("n", "decrement", null);
  await n.is(6);
  assert.equal(byId.values.at(-1)["__proto__"].n, 1);
  assert.equal(Object.getPrototypeOf(byId.values.at(-1)), null);
  assert.deepEqual(recent.values.at(-1).map((m) => m.data), [2, 3]);
  server.publish("n", "set", 40);
  await n.is(40);
});

test("two readers are one subscription, which ends with the last", async (t) => {
  const { server, ann } = setup(t);
  const store = latest(ann.topic("a"));
  const one = read(store), two = read(store), state = read(status(ann));
  await subscribed(ann.topic("b"));
  assert.equal(state.values.at(-1), "open");
  one.end();
  two.end();
  await ann.topic("c").publish("x", 1);
  assert.deepEqual(server.received.map(({ frame }) => frame.op), ["hello", "subscribe", "subscribe", "unsubscribe", "publish"]);
});
