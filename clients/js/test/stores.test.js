import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, FairleadError } from "../src/index.js";
import { count, crud, degraded, denials, derived, latest, lookup, on, once, scan, status } from "../src/stores.js";
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

test("five stores of one tick are one WebSocket message", async (t) => {
  const { server, ann } = setup(t);
  await ann.ready();
  const sent = [], { send } = server.WebSocket.prototype;
  server.WebSocket.prototype.send = function (text) {
    sent.push(JSON.parse(text));
    send.call(this, text);
  };
  const stores = ["a", "b", "c", "d", "e"].map((name) => read(latest(ann.topic(name))));
  await subscribed(ann.topic("e"));
  assert.deepEqual(sent.map((m) => m.map((f) => f.topic)), [["a", "b", "c", "d", "e"]]);
  for (const s of stores) s.end();
});

test("on has the newest message or data, scan what a function makes of them", async (t) => {
  const { server, ann } = setup(t), topic = ann.topic("a");
  const any = read(on(topic)), x = read(on(topic, "x")), sum = read(scan(topic, "x", 0, (n, { data }) => n + (data ?? 0)));
  assert.deepEqual([any.values, x.values, sum.values], [[null], [null], [0]]);
  await subscribed(topic);
  for (const [event, data] of [["x", 1], ["y", 5], ["x", null], ["x", 2]]) server.publish("a", event, data);
  await sum.is(3);
  assert.deepEqual(x.values, [null, 1, 2]);
  assert.deepEqual(any.values.map((m) => m?.event), [undefined, "x", "y", "x"]);
  assert.deepEqual(sum.values, [0, 1, 3]);
});

test("derived follows its source from topic to topic, and leaves the one before", async (t) => {
  const { server, ann } = setup(t);
  let set = () => {};
  const id = { subscribe: (fn) => (fn(1), (set = fn), () => (set = () => {})) };
  const newest = read(derived(id, (n) => n && on(ann.topic("order." + n), "x")));
  await subscribed(ann.topic("b"));
  server.publish("order.1", "x", "one");
  await newest.is("one");
  set(2);
  await newest.is(null);
  await ann.topic("b").publish("x", 1);
  server.publish("order.1", "x", "late");
  server.publish("order.2", "x", "two");
  await newest.is("two");
  set(0);
  await newest.is(undefined);
  newest.end();
  await ann.topic("b").publish("x", 1);
  const ops = server.received.map(({ frame }) => frame).filter((f) => f.topic?.startsWith("order")).map((f) => f.op + f.topic.at(-1));
  assert.deepEqual(ops, ["subscribe1", "subscribe2", "unsubscribe1", "unsubscribe2"]);
  assert.ok(!newest.values.includes("late"));
});

test("denials says why a topic is not heard", async (t) => {
  const { server, ann } = setup(t), topic = ann.topic("a"), why = read(denials(topic));
  await subscribed(topic);
  server.subscribe("ann", "a", false);
  await ann.topic("b").publish("x", 1);
  assert.deepEqual([why.values[0], why.values[1]?.code], [null, "PERMISSION_DENIED"]);
  server.subscribe("ann", "a");
  const heard = once(ann.topic("a"), "x");
  await ann.topic("b").publish("x", 1);
  server.publish("a", "x", 2);
  assert.equal((await heard).data, 2);
});

test("once: the next message, or why none came", async (t) => {
  const { server, ann } = setup(t), topic = ann.topic("a");
  const next = once(topic, "x");
  await subscribed(topic);
  server.publish("a", "y", 1);
  server.publish("a", "x", 2);
  assert.equal((await next).data, 2);
  await assert.rejects(once(topic, "x", { timeout: 1 }), { code: "DEADLINE_EXCEEDED" });
  await assert.rejects(once(topic, "x", { signal: AbortSignal.abort() }), { code: "CANCELLED" });
  const abort = new AbortController(), aborted = once(ann.topic("c"), "x", { signal: abort.signal });
  abort.abort();
  await assert.rejects(aborted, { code: "CANCELLED" });
  await ann.topic("b").publish("x", 1);
  assert.equal(server.received.filter(({ frame }) => frame.topic === "c").length, 0); // within one tick
});

test("the server in memory knows cursors", async (t) => {
  const { ann, bob } = setup(t), seen = [];
  const room = ann.topic("doc");
  room.cursor.on((all) => seen.push({ ...all }));
  await subscribed(room);
  const after = (n) => new Promise((resolve) => {
    const off = room.cursor.on(() => seen.length >= n && (off(), resolve()));
  });
  const errors = [];
  bob.on("error", (e) => errors.push(e.code));
  await bob.ready();
  bob.topic("doc").cursor.move({ x: 0 });
  await bob.topic("other").publish("x", 1);
  assert.deepEqual(errors, ["FAILED_PRECONDITION"]);
  bob.topic("doc").on("x", () => {});
  await subscribed(bob.topic("doc"));
  const moved = after(2);
  bob.topic("doc").cursor.move({ x: 1 });
  await moved;
  const gone = after(3);
  bob.close();
  await gone;
  assert.deepEqual(seen.slice(0, 3), [{}, { bob: { x: 1 } }, {}]);
});

test("the server in memory asks a user's newest connection", async (t) => {
  const { server, ann, bob } = setup(t);
  await assert.rejects(server.ask("ann", "confirm", 1), { code: "NOT_FOUND" });
  ann.serve("confirm", () => { throw new FairleadError("ABORTED", "not now"); });
  bob.serve("confirm", () => new Promise(() => {}));
  await Promise.all([ann.ready(), bob.ready()]);
  await assert.rejects(server.ask("ann", "confirm", 1), { code: "ABORTED", message: "not now" });
  const asked = server.ask("bob", "confirm", 1);
  server.drop();
  await assert.rejects(asked, { code: "UNAVAILABLE" });
});

test("the server in memory: progress, cancel, and what an operator does", async (t) => {
  const { server, ann } = setup(t), progress = [], system = [];
  ann.on("system", (e) => system.push(e.event));
  const cancelled = new Promise((resolve) => {
    server.handle("slow", (data, call) => new Promise(() => {
      call.progress({ half: data });
      call.signal.onabort = resolve;
    }));
  });
  const abort = new AbortController();
  const call = ann.call("slow", 7, { signal: abort.signal, onProgress: (p) => (progress.push(p), abort.abort()) });
  await assert.rejects(call, { code: "CANCELLED" });
  await cancelled;
  assert.deepEqual(progress, [{ half: 7 }]);
  server.refresh("ann");
  await ann.topic("b").publish("x", 1);
  assert.deepEqual(system, ["refresh"]);
  assert.equal(server.received.some(({ frame }) => frame.op === "refresh" && frame.token === "ann"), true);
  const failed = new Promise((resolve) => ann.on("state", resolve));
  server.disconnect("ann", "enough");
  const { state, cause } = await failed;
  assert.deepEqual([state, cause.code, cause.message], ["failed", "PERMISSION_DENIED", "enough"]);
});

test("degraded: what is away, as the gateway of now says", async (t) => {
  const { server, ann } = setup(t), state = read(degraded(ann));
  await ann.ready();
  server.degrade("ratelimit");
  server.degrade("nats");
  server.degrade("nats");
  await state.is(["nats", "ratelimit"]);
  server.degrade("ratelimit", false);
  server.degrade("presence", false);
  await state.is(["nats"]);
  server.drop(1006);
  await state.is([]);
  await ann.ready();
  server.refresh("ann");
  server.degrade("replay");
  await state.is(["replay"]);
  assert.deepEqual(state.values, [[], ["ratelimit"], ["nats", "ratelimit"], ["nats"], [], ["replay"]]);
  state.end();
});
