// What reaches one user: cursors, requests of the server, what an operator does.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/client.js";
import { FairleadError } from "../src/index.js";
import { Clock, settle, sockets } from "./clock.js";

async function open(o = {}, hello) {
  const clock = new Clock(), { opened, FakeSocket, last } = sockets(clock), errors = [];
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, ...o }, clock.env);
  client.on("error", (e) => errors.push(e));
  client.ready().catch(() => {});
  await settle();
  await last().accept(hello);
  return { clock, opened, last, client, errors, sent: (op) => last().sent.filter((f) => f.op === op) };
}

/** Answers the subscribes that were not answered yet. */
async function subscribed(it) {
  await settle();
  for (const { id, topic } of it.sent("subscribe")) it.last().receive({ id, ok: { topic } });
  await settle();
}

/** Another connection, once the one there is was lost. */
async function again(it) {
  it.last().drop(1006);
  await it.clock.pass(1000);
  await it.last().accept();
  await settle();
}

test("moves go out at once, then the newest every 16 ms", async () => {
  const it = await open(), { cursor } = it.client.topic("doc.7");
  cursor.on(() => {});
  cursor.move({ x: 0 });
  await subscribed(it);
  assert.deepEqual(it.last().sent.slice(1).map((f) => f.op), ["subscribe", "cursor"]);
  for (let x = 1; x <= 100; x++) {
    it.client.topic("doc.7").cursor.move({ x }); // whichever handle it is
    await it.clock.pass(1);
  }
  await it.clock.pass(100);
  const xs = it.sent("cursor").map((f) => f.data.x);
  assert.ok(xs.length <= 2 + Math.ceil(100 / 16), `${xs.length} moves on the wire`);
  assert.ok(xs.length >= 100 / 16, `${xs.length} moves on the wire`);
  assert.deepEqual([xs[0], xs.at(-1)], [0, 100]);
  assert.deepEqual(xs, xs.toSorted((a, b) => a - b));
  const n = it.sent("cursor").length, other = it.client.topic("doc.8").cursor;
  other.move(1);
  cursor.move({ x: 101 });
  await settle();
  assert.deepEqual(it.sent("cursor").slice(n).map((f) => [f.topic, f.data]), [["doc.8", 1], ["doc.7", { x: 101 }]]);
  assert.equal(it.clock.timers > 0, true);
  await it.clock.pass(16);
  assert.equal(it.sent("cursor").length, n + 2);
});

test("a move is taken as it was; what is no JSON throws at the caller", async () => {
  const it = await open(), { cursor } = it.client.topic("a"), at = { x: 1 };
  cursor.move(0);
  await settle();
  cursor.move(at);
  at.x = 2;
  await it.clock.pass(16);
  assert.deepEqual(it.sent("cursor").map((f) => f.data), [0, { x: 1 }]);
  assert.throws(() => cursor.move(1n), TypeError);
});

test("without a connection nothing goes out; the next one is told where the cursor was last", async () => {
  const it = await open(), { cursor } = it.client.topic("a"), gone = it.client.topic("b").cursor, old = it.client.topic("c").cursor;
  for (const c of [cursor, gone, old]) c.on(() => {});
  await subscribed(it);
  old.move("old");
  await it.clock.pass(29500);
  cursor.move(1);
  gone.move(1);
  await settle();
  it.last().drop(1006);
  for (const x of [2, 3]) cursor.move(x);
  gone.move(null);
  await it.clock.pass(1000);
  assert.equal(it.opened.length, 2);
  assert.deepEqual(it.last().sent, []);
  await it.last().accept();
  await settle();
  const { sent } = it.last(), at = sent.findIndex((f) => f.op === "cursor");
  assert.deepEqual(it.sent("cursor").map((f) => [f.topic, f.data]), [["a", 3]]);
  assert.ok(at > sent.findIndex((f) => f.op === "subscribe" && f.topic === "a"));
});

test("a cursor of a topic that was left is forgotten, and what waited of it too", async () => {
  const it = await open(), { cursor } = it.client.topic("a"), off = cursor.on(() => {});
  await subscribed(it);
  cursor.move(1);
  await settle();
  cursor.move(2);
  off();
  await it.clock.pass(100);
  assert.deepEqual(it.sent("cursor").map((f) => f.data), [1]);
  assert.equal(it.sent("unsubscribe").length, 1);
  it.client.topic("b").on("*", () => {});
  await again(it);
  assert.deepEqual(it.sent("cursor"), []);
});

test("cursors: all, pages of it, moved, gone; a listener that comes later has the subscription say so", async () => {
  const it = await open(), room = it.client.topic("a"), seen = [];
  room.on("*", () => {});
  await subscribed(it);
  room.cursor.on((all) => seen.push({ ...all }));
  await settle();
  assert.deepEqual(it.sent("subscribe").map((f) => f.cursors), [undefined, true]);
  const frame = (f) => it.last().receive({ op: "cursors", topic: "a", ...f });
  frame({ all: { ann: 1 } });
  frame({ moved: { bob: 2 } });
  frame({ moved: { bob: 3, ann: 4 }, gone: ["cem"] });
  frame({ gone: ["ann"] });
  frame({ all: { dan: 1 } });
  assert.deepEqual(seen, [{ ann: 1 }, { ann: 1, bob: 2 }, { ann: 4, bob: 3 }, { bob: 3 }, { dan: 1 }]);
});

test("refresh: another token at once, and its errors are heard", async () => {
  let n = 0;
  const it = await open({ token: () => "t" + ++n }), system = [];
  it.client.on("system", (e) => system.push(e));
  it.last().receive({ op: "system", event: "refresh", at: 1 });
  await settle();
  const [{ id, token }] = it.sent("refresh");
  assert.equal(token, "t2");
  assert.deepEqual(system, [{ event: "refresh", at: 1 }]);
  it.last().receive({ id, error: { code: "PERMISSION_DENIED", message: "another user" } });
  assert.deepEqual(it.errors.map((e) => e.code), ["PERMISSION_DENIED"]);
  assert.equal(it.client.state, "open");
});

test("subscribed by the server: listeners hear the topic without asking, and leave it when they end", async () => {
  const it = await open(), got = [], system = [];
  it.client.on("system", (e) => system.push(e));
  it.last().receive({ op: "system", event: "subscribed", what: "ops", at: 1 });
  it.last().receive({ topic: "ops", event: "x", data: 0 }); // nobody listens
  const off = it.client.topic("ops").on("x", (m) => got.push(m.data));
  await settle();
  it.last().receive({ topic: "ops", event: "x", data: 1, seq: 5, prev: 4, ts: 50 });
  it.last().receive({ topic: "ops", event: "x", data: 1, seq: 5, prev: 4, ts: 50 });
  assert.deepEqual([got, it.sent("subscribe"), system[0].what], [[1], [], "ops"]);
  off();
  await settle();
  assert.deepEqual(it.sent("unsubscribe").map((f) => f.topic), ["ops"]);
});

test("subscribed by the server: what was denied before comes alive", async () => {
  const it = await open(), got = [];
  it.client.topic("ops").on("$subscribed", (e) => got.push(e.recovered));
  it.client.topic("ops").on("$denied", (e) => got.push(e.code));
  it.client.topic("ops").on("x", (m) => got.push(m.data));
  await settle();
  it.last().receive({ id: it.sent("subscribe")[0].id, error: { code: "PERMISSION_DENIED", message: "no" } });
  it.last().receive({ op: "system", event: "subscribed", what: "ops", at: 1 });
  it.last().receive({ topic: "ops", event: "x", data: 1 });
  assert.deepEqual(got, ["PERMISSION_DENIED", false, 1]);
  await again(it); // and is asked for like any other
  assert.deepEqual(it.sent("subscribe").map((f) => f.topic), ["ops"]);
});

test("unsubscribed by the server: listeners are told, and nothing asks again until somebody listens anew", async () => {
  const it = await open(), got = [], room = it.client.topic("a");
  const off = room.on("$denied", (e) => got.push(e.code));
  room.on("x", () => got.push("x"));
  const loop = (async () => { for await (const _ of room); })();
  const thrown = assert.rejects(loop, { code: "PERMISSION_DENIED" });
  await subscribed(it);
  it.last().receive({ op: "system", event: "unsubscribed", what: "a", at: 1 });
  it.last().receive({ topic: "a", event: "x", data: 1 });
  await thrown;
  assert.deepEqual(got, ["PERMISSION_DENIED"]);
  off();
  await again(it);
  assert.deepEqual(it.last().sent.map((f) => f.op), ["hello"]);
  room.on("x", (m) => got.push(m.data));
  await subscribed(it);
  it.last().receive({ topic: "a", event: "x", data: 2 });
  assert.deepEqual(got, ["PERMISSION_DENIED", 2]);
  assert.deepEqual(it.sent("subscribe").map((f) => f.topic), ["a"]);
  assert.deepEqual(it.sent("unsubscribe"), []);
});

test("serve: late answers go out, those of a lost connection don't, one handler is independent of another", async () => {
  const it = await open(), answers = [];
  it.client.serve("slow", () => new Promise((resolve) => answers.push(resolve)));
  it.client.serve("quick", (data) => data);
  it.client.serve("text", (data) => data.length);
  const ask = (ref, event, f = { data: 1 }) => it.last().receive({ op: "request", ref, event, ...f, timeoutMs: 10 });
  ask("r1", "slow");
  ask("r2", "quick");
  ask("r3", "text", { text: "four" });
  await it.clock.pass(20); // the asker gave up; the gateway knows that, and ignores it
  answers[0]("late");
  await settle();
  assert.deepEqual(it.sent("reply").map((f) => [f.ref, f.data]), [["r2", 1], ["r3", 4], ["r1", "late"]]);
  ask("r4", "slow");
  await again(it);
  answers[1]("lost");
  await settle();
  assert.deepEqual(it.sent("reply"), []);
  ask("r5", "quick", { data: 5 });
  await settle();
  assert.deepEqual(it.sent("reply").map((f) => f.data), [5]);
});

test("serve: an answer that is no JSON is the client's error; codes and messages of FairleadErrors are kept", async () => {
  const it = await open();
  it.client.serve("circle", () => { const a = {}; return (a.a = a); });
  it.client.serve("async", async () => { throw new FairleadError("ABORTED", "changed meanwhile", { retryAfter: 5 }); });
  for (const ref of ["circle", "async"]) it.last().receive({ op: "request", ref, event: ref, data: null, timeoutMs: 10 });
  await settle();
  assert.deepEqual(it.sent("reply").map((f) => [f.ref, f.error.code, f.error.message]), [["circle", "INTERNAL", "client error"], ["async", "ABORTED", "changed meanwhile"]]);
  assert.equal(it.errors.length, 1);
  assert.ok(it.errors[0] instanceof TypeError);
});

test("listeners: in order, stable while they end each other, one that throws is reported and keeps none from hearing", async () => {
  const it = await open(), got = [], room = it.client.topic("a"), offs = [];
  const add = (name, fn = () => {}) => offs.push(room.on("x", () => (got.push(name), fn())));
  add("first", () => offs[2]());
  add("throws", () => { throw new Error("mine"); });
  add("ended by the first");
  add("adds", () => room.on("x", () => got.push("added")));
  await subscribed(it);
  it.last().receive({ topic: "a", event: "x", data: 1 });
  assert.deepEqual(got, ["first", "throws", "adds"]);
  assert.deepEqual(it.errors.map((e) => e.message), ["mine"]);
  it.client.on("state", () => { throw new Error("state"); });
  it.client.inbox(() => { throw new Error("inbox"); });
  it.last().receive({ event: "x", data: 1, direct: true });
  it.last().drop(1006);
  assert.deepEqual(it.errors.map((e) => e.message), ["mine", "inbox", "state"]);
});

test("1001 keyed publishes without a connection: each policy keeps its bound and the order", async () => {
  for (const [policy, first, last] of [["drop-newest", 0, 999], ["drop-oldest", 1, 1000]]) {
    const it = await open({ queue: { policy } });
    it.last().drop(1006);
    const results = Promise.allSettled(Array.from({ length: 1001 }, (_, i) => it.client.topic("a").publish("m", i, { key: "k" + i })));
    await it.clock.pass(1000);
    await it.last().accept();
    for (let sent = 0; sent !== it.sent("publish").length;) {
      const those = it.sent("publish").slice(sent);
      sent += those.length;
      for (const { id } of those) it.last().receive({ id, ok: {} });
      await settle();
    }
    const data = it.sent("publish").map((f) => f.data);
    assert.deepEqual(data, Array.from({ length: 1000 }, (_, i) => first + i), policy);
    assert.equal(data.at(-1), last);
    const refused = (await results).flatMap((r, i) => (r.status === "rejected" ? [[i, r.reason.code, r.reason.outcome]] : []));
    assert.deepEqual(refused, [[policy === "drop-newest" ? 1000 : 0, "RESOURCE_EXHAUSTED", "none"]]);
  }
});
