import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { connect, FairleadError } from "../src/index.js";
import { Server, state } from "./server.js";

/** A server with a script, and a client for it. */
async function setup(t, script, o = {}) {
  const server = await Server.start(script);
  const fl = connect(server.url, { WebSocket, reconnect: { min: 1, max: 5 }, ...o });
  const errors = [];
  fl.on("error", (e) => errors.push(e));
  t.after(async () => {
    fl.close();
    await server.stop();
  });
  return { server, fl, errors };
}

/** Resolves with the topic's next `n` messages. */
const next = (topic, n = 1) => new Promise((resolve) => {
  const got = [];
  const off = topic.on("*", (m) => got.push(m) === n && (off(), resolve(got)));
});

const subscribed = (topic) => new Promise((resolve) => {
  const off = topic.on("$subscribed", (e) => (off(), resolve(e)));
});

test("nothing is dialled before the first use; hello comes first", async (t) => {
  const { server, fl } = await setup(t, undefined, { token: async () => "jwt" });
  fl.topic("a");
  await new Promise(setImmediate);
  assert.equal(fl.state, "disconnected");
  assert.equal(server.connections.length, 0);
  await fl.ready();
  const [{ protocol, frames }] = server.connections;
  assert.equal(protocol, "fairlead.v1");
  assert.deepEqual(frames, [{ id: 1, op: "hello", token: "jwt", client: "fairlead-js/0.1.0" }]);
  assert.deepEqual([fl.state, fl.user, fl.conn], ["open", "ann", "c1"]);
});

test("the first use of the README works: listen, then publish, on no connection yet", async (t) => {
  const { server, fl } = await setup(t);
  const room = fl.topic("chat.lobby");
  room.on("message", () => {});
  assert.deepEqual(await room.publish("message", { text: "hello" }), {});
  assert.deepEqual(server.connections[0].messages[1].map((f) => f.op), ["subscribe", "publish"]);
});

test("five subscribes of one tick are one batch", async (t) => {
  const { server, fl } = await setup(t);
  await fl.ready();
  for (const name of ["a", "b", "c", "d", "e"]) fl.topic(name).on("*", () => {});
  await server.until(() => server.connections[0].frames.length === 6);
  assert.deepEqual(server.connections[0].messages.slice(1).map((m) => m.map((f) => f.topic)), [["a", "b", "c", "d", "e"]]);
});

test("many listeners are one subscribe, and one unsubscribe when the last has left", async (t) => {
  const { server, fl } = await setup(t);
  const offs = [fl.topic("a").on("x", () => {}), fl.topic("a").on("*", () => {}), fl.topic("a").on("x", () => {})];
  await server.frame("subscribe");
  offs[0]();
  offs[0](); // twice is once
  offs[1]();
  await fl.topic("b").publish("message", 1);
  offs[2]();
  await server.frame("unsubscribe");
  assert.deepEqual(server.connections[0].frames.map((f) => f.op), ["hello", "subscribe", "publish", "unsubscribe"]);
});

test("leaving and listening again within a tick says nothing to the server", async (t) => {
  const { server, fl } = await setup(t);
  const off = fl.topic("a").on("x", () => {});
  await subscribed(fl.topic("a"));
  off();
  fl.topic("a").on("x", () => {});
  await fl.topic("b").publish("message", 1);
  assert.deepEqual(server.connections[0].frames.map((f) => f.op), ["hello", "subscribe", "publish"]);
});

test("messages reach listeners by event, by * and by pattern, singly and in arrays", async (t) => {
  const { server, fl } = await setup(t);
  const got = [];
  const room = fl.topic("chat.lobby"), all = fl.topic("chat.*");
  room.on("message", (m) => got.push(["message", m.data]));
  room.on("*", (m) => got.push(["*", m.event]));
  all.on("*", (m) => got.push(["pattern", m.topic]));
  const done = next(fl.topic("chat.>"), 3);
  await subscribed(fl.topic("chat.>"));
  server.connections[0].send({ topic: "chat.lobby", event: "message", data: 1, from: "bob" },
    JSON.stringify([{ topic: "chat.lobby", event: "typing", data: null }, { topic: "chat.other", event: "message", data: 2 }]));
  await done;
  assert.deepEqual(got, [["message", 1], ["*", "message"], ["pattern", "chat.lobby"], ["*", "typing"], ["pattern", "chat.lobby"], ["pattern", "chat.other"]]);
});

test("garbage, unknown frames and throwing listeners leave the connection alone", async (t) => {
  const { server, fl, errors } = await setup(t);
  const room = fl.topic("a");
  room.on("*", () => { throw new Error("mine"); });
  await subscribed(room);
  const got = next(room);
  server.connections[0].send("not json", "[", "null", "17", '"x"', "[]", "[null,[{}],3]", "{}",
    { op: "tomorrow" }, { id: 99, ok: {} }, { id: "x", ok: {} }, { op: "presence" }, { topic: 5, event: "x" }, { op: "truncated" },
    { id: 0, error: { code: "RESOURCE_EXHAUSTED", message: "big", retryAfterMs: null, details: { op: "publish" } } });
  server.connections[0].socket.send(Buffer.from([1, 2]));
  server.connections[0].send({ topic: "a", event: "x", data: 1, unknown: true });
  const [message] = await got;
  assert.equal(message.data, 1);
  assert.equal(server.connections.length, 1);
  assert.deepEqual(errors.map((e) => e.code ?? e.message), ["INTERNAL", "INTERNAL", "RESOURCE_EXHAUSTED", "INTERNAL", "mine"]);
  assert.equal(errors[2].retryAfter, null);
});

test("after a drop: hello with the session, all subscriptions in one batch, then what was queued", async (t) => {
  const { server, fl } = await setup(t);
  for (const name of ["a", "b", "c"]) fl.topic(name).on("*", () => {});
  await subscribed(fl.topic("c"));
  const [, dropped] = [server.connections[0].socket.terminate(), state(fl, "disconnected")];
  await dropped;
  await assert.rejects(fl.topic("a").publish("message", 0), { code: "UNAVAILABLE", outcome: "none" });
  const queued = [1, 2].map((n) => fl.topic("a").publish("message", n, { key: "k" + n }));
  await Promise.all(queued);
  const [hello, batch] = server.connections[1].messages;
  assert.equal(hello.op, "hello");
  assert.equal(hello.session, "s1");
  assert.deepEqual(batch.map((f) => [f.op, f.topic, f.key]),
    [["subscribe", "a", undefined], ["subscribe", "b", undefined], ["subscribe", "c", undefined], ["publish", "a", "k1"], ["publish", "a", "k2"]]);
});

test("a keyed publish whose answer was lost is sent again; one without key is of unknown outcome", async (t) => {
  const { server, fl } = await setup(t, (f, c) => (f.op === "publish" && c.n === 1 ? void (f.data === 2 && c.socket.terminate()) : null));
  await fl.ready();
  const room = fl.topic("a");
  const keyed = room.publish("message", 1, { key: "k" });
  await assert.rejects(room.publish("message", 2), { code: "UNAVAILABLE", outcome: "unknown" });
  assert.deepEqual(await keyed, {});
  assert.deepEqual(server.connections[1].frames.map((f) => [f.op, f.key]), [["hello", undefined], ["publish", "k"]]);
});

test("1009: what was under way isn't sent again", async (t) => {
  const { server, fl } = await setup(t, (f, c) => (f.op === "publish" && c.n === 1 ? void c.socket.close(1009) : null));
  await assert.rejects(fl.topic("a").publish("message", 1, { key: "k" }), { outcome: "unknown" });
  await fl.ready();
  assert.deepEqual(server.connections[1].frames.map((f) => f.op), ["hello"]);
});

test("the queue keeps its bound by its policy", async (t) => {
  const outcomes = async (policy) => {
    const { server, fl } = await setup(t, undefined, { queue: { size: 2, policy }, reconnect: { min: 60000 } });
    await fl.ready();
    server.connections[0].socket.terminate();
    await state(fl, "disconnected");
    const results = Promise.allSettled([1, 2, 3].map((n) => fl.topic("a").publish("message", n, { key: "k" + n })));
    fl.close();
    return (await results).map((r) => r.reason.code);
  };
  assert.deepEqual(await outcomes("drop-newest"), ["CANCELLED", "CANCELLED", "RESOURCE_EXHAUSTED"]);
  assert.deepEqual(await outcomes("drop-oldest"), ["RESOURCE_EXHAUSTED", "CANCELLED", "CANCELLED"]);
  assert.deepEqual(await outcomes("off"), ["UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"]);
});

test("hundreds of subscriptions go in batches of at most 256, within what a gateway allows at once", async (t) => {
  const { server, fl } = await setup(t);
  await fl.ready();
  for (let i = 0; i < 900; i++) fl.topic("t." + i).on("*", () => {});
  await subscribed(fl.topic("t.899"));
  const sizes = server.connections[0].messages.slice(1).map((m) => [m].flat().length);
  assert.equal(sizes.reduce((a, b) => a + b), 900);
  assert.ok(Math.max(...sizes) <= 256, "largest batch " + Math.max(...sizes));
});

test("refused subscriptions: $denied, again only when it can help", async (t) => {
  let asked = 0;
  const { server, fl } = await setup(t, (f) => {
    if (f.op !== "subscribe") return null;
    if (f.topic === "secret") return { id: f.id, error: { code: "PERMISSION_DENIED", message: "no", details: { rule: "r" } } };
    if (asked++) return null;
    return { id: f.id, error: { code: "RESOURCE_EXHAUSTED", message: "later", retryAfterMs: 1 } };
  });
  const denied = new Promise((resolve) => fl.topic("secret").on("$denied", resolve));
  await subscribed(fl.topic("busy"));
  const error = await denied;
  assert.ok(error instanceof FairleadError);
  assert.deepEqual([error.code, error.rule], ["PERMISSION_DENIED", "r"]);
  assert.equal(server.connections[0].frames.filter((f) => f.topic === "secret").length, 1);
  assert.equal(asked, 2);
});

test("calls: progress, answers that are no JSON, errors with all their fields", async (t) => {
  const { fl } = await setup(t, (f) => {
    if (f.op !== "call") return null;
    if (f.method === "text") return { id: f.id, text: "plain" };
    if (f.method === "none") return { id: f.id, error: { code: "UNIMPLEMENTED", message: "nobody", retryAfterMs: 5, details: { op: "call", outcome: "none" } } };
    return [1, 2].map((progress) => ({ id: f.id, progress })).concat({ id: f.id, ok: f.data }).map((x) => JSON.stringify(x)).join().replace(/.*/s, "[$&]");
  });
  const progress = [];
  assert.deepEqual(await fl.call("echo", { a: 1 }, { onProgress: (p) => progress.push(p) }), { a: 1 });
  assert.deepEqual(progress, [1, 2]);
  assert.equal(await fl.call("text"), "plain");
  await assert.rejects(fl.call("none"), (e) => e instanceof FairleadError && e.code === "UNIMPLEMENTED" && e.retryAfter === 5 && e.outcome === "none" && e.details.op === "call");
});

test("an aborted or late call is cancelled at the worker; one not sent never goes out", async (t) => {
  const { server, fl } = await setup(t, (f) => (f.op === "call" ? undefined : null));
  await fl.ready();
  const abort = new AbortController();
  const aborted = assert.rejects(fl.call("slow", 1, { signal: abort.signal }), { code: "CANCELLED", outcome: "unknown" });
  const { id } = await server.frame("call");
  abort.abort();
  await aborted;
  assert.deepEqual(await server.frame("cancel"), { op: "cancel", ref: id });
  await assert.rejects(fl.call("slow", 2, { timeout: 5 }), { code: "DEADLINE_EXCEEDED", outcome: "unknown" });
  await server.until(() => server.connections[0].frames.filter((f) => f.op === "cancel").length === 2);
  await assert.rejects(fl.call("slow", 3, { signal: AbortSignal.abort() }), { code: "CANCELLED", outcome: "none" });
  await fl.topic("a").publish("message", 1);
  const calls = server.connections[0].frames.filter((f) => f.op === "call");
  assert.deepEqual(calls.map((f) => [f.data, f.timeoutMs]), [[1, undefined], [2, 5]]);
});

test("serve answers the server: data, errors, nobody there", async (t) => {
  const { server, fl, errors } = await setup(t);
  fl.serve("confirm", async ({ n }) => ({ n: n + 1 }));
  fl.serve("nothing", () => {});
  fl.serve("refuse", () => { throw new FairleadError("FAILED_PRECONDITION", "not now"); });
  fl.serve("broken", () => { throw new Error("secret detail"); });
  const off = fl.serve("confirm", () => "newest");
  await fl.ready();
  const ask = async (event, data, ref = event) => {
    server.connections[0].send({ op: "request", ref, event, data, timeoutMs: 5000 });
    return server.until(() => server.connections[0].frames.find((f) => f.op === "reply" && f.ref === ref));
  };
  assert.deepEqual(await ask("confirm", { n: 1 }, "r0"), { op: "reply", ref: "r0", data: "newest" });
  off();
  assert.deepEqual(await ask("confirm", { n: 1 }), { op: "reply", ref: "confirm", data: { n: 2 } });
  assert.equal((await ask("nothing")).data, null);
  assert.deepEqual((await ask("refuse")).error, { code: "FAILED_PRECONDITION", message: "not now" });
  const { error } = await ask("broken");
  assert.equal(error.code, "INTERNAL");
  assert.doesNotMatch(error.message, /secret/);
  assert.equal((await ask("unknown")).error.code, "UNIMPLEMENTED");
  assert.deepEqual(errors.map((e) => e.message), ["secret detail"]);
});

test("direct messages reach the inbox, and the listeners of a topic they name", async (t) => {
  const { server, fl } = await setup(t);
  const inbox = [];
  fl.inbox((m) => inbox.push(m.event));
  const named = next(fl.topic("notes"));
  await subscribed(fl.topic("notes"));
  server.connections[0].send({ event: "whisper", data: 1, direct: true }, { topic: "notes", event: "incoming", data: 2, direct: true });
  assert.equal((await named)[0].data, 2);
  assert.deepEqual(inbox, ["whisper", "incoming"]);
});

test("a topic is an iterable; leaving the loop unsubscribes", async (t) => {
  const { server, fl } = await setup(t);
  const got = [];
  const loop = (async () => {
    for await (const m of fl.topic("a")) if (got.push(m.data) === 3) break;
  })();
  await server.frame("subscribe");
  for (const data of [1, 2, 3, 4]) server.connections[0].send({ topic: "a", event: "x", data });
  await loop;
  assert.deepEqual(got, [1, 2, 3]);
  await server.frame("unsubscribe");
  const ended = (async () => {
    for await (const m of fl.topic("b")) assert.fail(m);
  })();
  await server.until(() => server.connections[0].frames.some((f) => f.topic === "b"));
  fl.close();
  await ended;
});

test("positions: duplicates are dropped, skips move on, the resubscribe names the last one", async (t) => {
  const { server, fl } = await setup(t, (f, c) => (f.op === "subscribe" ? { id: f.id, ok: { topic: f.topic, seq: f.after ?? 5, ts: 50, head: 7, recovered: true } } : null));
  const log = fl.topic("log.a"), got = [], truncated = [];
  log.on("*", (m) => got.push([m.seq, m.replayed]));
  log.on("$truncated", (e) => truncated.push(e.missingFrom));
  assert.deepEqual(await subscribed(log), { recovered: false, position: "5:50", missingFrom: undefined, reason: undefined });
  const message = (seq, ts) => ({ topic: "log.a", event: "x", data: 0, seq, prev: seq - 1, ts });
  server.connections[0].send({ op: "truncated", topic: "log.a", missingFrom: 6 }, message(7, 70), message(7, 70), message(8, 80), message(6, 60), { op: "skip", topic: "log.a", seq: 9, prev: 8, ts: 90 }, message(9, 90), message(10, 100));
  await fl.topic("b").publish("message", 1);
  assert.deepEqual(got, [[7, true], [8, undefined], [10, undefined]]);
  assert.deepEqual(truncated, [6]);
  const again = subscribed(log);
  server.connections[0].socket.close(1001);
  assert.equal((await again).recovered, true);
  const { after, ts } = server.connections[1].frames.find((f) => f.op === "subscribe");
  assert.deepEqual([after, ts], [10, 100]);
});

test("what today's gateway doesn't have rejects with its code", async (t) => {
  const { server, fl } = await setup(t, (f) => (["hello", "subscribe", "unsubscribe"].includes(f.op) ? null : { id: f.id, error: { code: "UNIMPLEMENTED", message: "later" } }));
  const { presence } = fl.topic("a"), group = fl.group("lobby");
  const ops = { "presence.join": presence.join({ name: "Ann" }), "presence.update": presence.update(1), "presence.leave": presence.leave(), presence: presence.list(),
    history: fl.topic("a").history({ after: "3:30", limit: 10 }), "group.join": group.join({ role: "admin" }), "group.leave": group.leave(),
    "group.publish": group.publish("x", 1), "group.send": group.send("c9", "x", 1), "group.members": group.members(), "group.meta": group.meta({ a: 1 }) };
  const results = await Promise.allSettled(Object.values(ops));
  for (const [i, op] of Object.keys(ops).entries()) {
    assert.equal(results[i].reason?.code, "UNIMPLEMENTED", op);
    assert.ok(server.connections[0].frames.some((f) => f.op === op), op);
  }
  fl.topic("a").cursor.move({ x: 1 });
  assert.deepEqual((await server.frame("cursor")).data, { x: 1 });
});

test("presence and cursors are folded into what is there", async (t) => {
  const { server, fl } = await setup(t);
  const seen = [];
  const { presence, cursor } = fl.topic("a");
  presence.on((all, { joined, left }) => seen.push([Object.keys(all), Object.keys(joined), Object.keys(left)]));
  cursor.on((all) => seen.push({ ...all }));
  const { presence: mode, cursors } = await server.frame("subscribe");
  assert.deepEqual([mode, cursors], ["watch", true]);
  server.connections[0].send({ op: "presence", topic: "a", rev: 1, more: true, state: { ann: {} } }, { op: "presence", topic: "a", rev: 1, state: { __proto__x: {}, bob: {} } },
    { op: "presence", topic: "a", rev: 2, joins: { cat: {} }, leaves: { bob: {} } },
    '{"op":"cursors","topic":"a","all":{"ann":1,"__proto__":{"polluted":true}}}', { op: "cursors", topic: "a", moved: { bob: 2 }, gone: ["ann"] });
  await fl.topic("b").publish("message", 1);
  assert.deepEqual(seen.slice(0, 2), [[["ann", "__proto__x", "bob"], ["ann", "__proto__x", "bob"], []], [["ann", "__proto__x", "cat"], ["cat"], ["bob"]]]);
  assert.equal(seen[3].bob, 2);
  assert.equal({}.polluted, undefined);
  assert.equal(Object.keys(seen[3]).includes("ann"), false);
});

test("system events are passed on", async (t) => {
  const { server, fl } = await setup(t);
  await fl.ready();
  const heard = new Promise((resolve) => fl.on("system", resolve));
  server.connections[0].send({ op: "system", event: "degraded", what: "nats", at: 1 });
  assert.deepEqual(await heard, { event: "degraded", what: "nats", at: 1 });
});

test("a frame over the gateway's limit is refused here, with both numbers", async (t) => {
  const { server, fl } = await setup(t, (f) => (f.op === "hello" ? { id: f.id, ok: { conn: "c1", user: "ann", session: "s", maxPayloadBytes: 100 } } : null));
  await assert.rejects(fl.topic("a").publish("message", "ü".repeat(60), { key: "k" }),
    (e) => e.code === "RESOURCE_EXHAUSTED" && e.retryAfter === null && e.details.limit === 100 && e.details.observed > 120);
  await fl.topic("a").publish("message", "ok");
  assert.equal(server.connections[0].frames.filter((f) => f.op === "publish").length, 1);
});

test("data is taken as it was when it was published; what is no JSON throws at the caller", async (t) => {
  const { server, fl } = await setup(t);
  const data = { n: 1 };
  const published = fl.topic("a").publish("message", data, { echo: false });
  data.n = 2;
  await published;
  const { data: sent, echo } = await server.frame("publish");
  assert.deepEqual([sent, echo], [{ n: 1 }, false]);
  await assert.rejects(fl.topic("a").publish("message", 1n), TypeError);
  const circle = {};
  circle.circle = circle;
  await assert.rejects(fl.call("x", circle), TypeError);
});

test("connect takes relative and http addresses, and refuses what is none", () => {
  globalThis.location = { href: "https://app.example/page" };
  const urls = [];
  class Socket {
    constructor(url) {
      urls.push(url);
    }
    close() {}
  }
  return Promise.all([undefined, "/other", "http://gw.example/ws", "wss://gw.example/ws"].map(async (url) => {
    const fl = connect(url, { WebSocket: Socket });
    fl.ready().catch(() => {});
    await new Promise(setImmediate);
    fl.close();
  })).then(() => {
    delete globalThis.location;
    assert.deepEqual(urls, ["wss://app.example/ws", "wss://app.example/other", "ws://gw.example/ws", "wss://gw.example/ws"]);
    assert.throws(() => connect("/ws"), TypeError);
  });
});
