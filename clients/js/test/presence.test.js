import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { Client } from "../src/client.js";
import { connect } from "../src/index.js";
import { Rooms } from "../src/rooms.js";
import { members } from "../src/stores.js";
import { MemoryServer } from "../src/testing.js";
import { Clock, settle, sockets } from "./clock.js";
import { Server } from "./server.js";

/** Clients of users on one server in memory. */
function room(t, ...users) {
  const server = new MemoryServer();
  const clients = users.map((token) => connect("ws://test/ws", { WebSocket: server.WebSocket, token, reconnect: { min: 1, max: 1 } }));
  t.after(() => clients.forEach((c) => c.close()));
  return { server, clients, topics: clients.map((c) => c.topic("a")) };
}

/** What a listener heard, and a promise for the first change that `is` holds for. */
function watch(presence) {
  const heard = [], waiting = new Set();
  const off = presence.on((all, change) => {
    heard.push([Object.keys(all).sort(), Object.keys(change.joined), Object.keys(change.left)]);
    for (const w of waiting) if (w.is(all, change)) w.resolve({ ...all }), waiting.delete(w);
  });
  const until = (is) => new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("not heard; last was " + JSON.stringify(heard.at(-1)))), 2000);
    waiting.add({ is, resolve: (all) => (clearTimeout(timer), resolve(all)) });
  });
  return { heard, until, off };
}

const has = (...users) => (all) => users.every((u) => u in all) && Object.keys(all).length === users.length;

/** A client on a socket in the test's hands; `answers` are the replies by op. */
async function open(answers = {}) {
  const clock = new Clock(), { FakeSocket, last, opened } = sockets(clock), errors = [];
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket }, clock.env);
  client.on("error", (e) => errors.push(e));
  const answered = new Set();
  const it = {
    client, clock, errors, last, opened,
    /** Answers what was sent and not answered, and lets what follows from that happen. */
    async answer() {
      for (let more = true; more;) {
        await settle();
        more = false;
        for (const f of last().sent) {
          if (f.op === "hello" || answered.has(f)) continue;
          answered.add(f);
          more = true;
          const reply = (answers[f.op] ?? (() => ({ ok: {} })))(f);
          if (reply) last().receive({ id: f.id, ...reply });
        }
      }
    },
    async reconnect() {
      last().drop(1006);
      while (last().closed || opened.length === it.dials) await clock.pass(100);
      it.dials = opened.length;
      await last().accept();
      await it.answer();
    },
    sent: (op) => last().sent.filter((f) => f.op === op),
    presence: (frame) => last().receive({ op: "presence", topic: "a", ...frame }),
  };
  client.ready().catch(() => {});
  await settle();
  await last().accept();
  it.dials = opened.length;
  return it;
}

const full = { error: { code: "RESOURCE_EXHAUSTED", message: "full", retryAfterMs: 1000, details: { op: "subscribe", topic: "a", limit: 2 } } };

test("two users see each other come, change and go", async (t) => {
  const { topics: [ann, bob] } = room(t, "ann", "bob");
  const seen = watch(ann.presence);
  await ann.presence.join({ mood: "fine" });
  let next = seen.until(has("ann", "bob"));
  await bob.presence.join();
  assert.deepEqual(await next, { ann: { data: { mood: "fine" } }, bob: {} });
  next = seen.until((all) => all.bob?.data === 2);
  await bob.presence.update(2);
  await next;
  assert.deepEqual(seen.heard.at(-1), [["ann", "bob"], ["bob"], []]);
  next = seen.until(has("ann"));
  await bob.presence.leave();
  await next;
  assert.deepEqual(seen.heard.at(-1), [["ann"], [], ["bob"]]);
  assert.deepEqual(await bob.presence.list(), { __proto__: null, ann: { data: { mood: "fine" } } });
  await assert.rejects(bob.presence.update(1), { code: "FAILED_PRECONDITION" });
});

test("who only watches is not seen, and the last to stop ends the watching", async (t) => {
  const { server, topics: [ann, bob] } = room(t, "ann", "bob");
  ann.on("message", () => {});
  const first = watch(ann.presence), second = watch(ann.presence);
  const next = first.until(has("bob"));
  await bob.presence.join();
  await next;
  assert.deepEqual(Object.keys(await ann.presence.list()), ["bob"]);
  first.off();
  second.off();
  await bob.presence.update(1);
  const modes = server.received.filter(({ frame }) => frame.op === "subscribe" && frame.topic === "a").map(({ frame }) => frame.presence);
  assert.deepEqual(modes, ["watch", undefined, undefined]); // Ann, Bob, Ann again
  assert.equal(first.heard.some(([, joined]) => joined.length > 1), false);
});

test("a listener that comes later is told who is there", async (t) => {
  const { topics: [ann, bob] } = room(t, "ann", "bob");
  await bob.presence.join(1);
  const first = watch(ann.presence);
  await first.until(has("bob"));
  const second = watch(ann.presence);
  assert.deepEqual(await second.until(has("bob")), { bob: { data: 1 } });
  first.off();
  second.off();
  const third = watch(ann.presence);
  await third.until(has("bob"));
});

test("two connections of a user are one member with the newest data", async (t) => {
  const { clients: [ann, tab1, tab2], topics: [watcher, one, two] } = room(t, "ann", "bob", "bob");
  const seen = watch(watcher.presence);
  await one.presence.join("one");
  let next = seen.until((all) => all.bob?.data === "two");
  await two.presence.join("two");
  await next;
  await one.presence.update("one, changed"); // the newer one speaks all the same
  assert.deepEqual(await watcher.presence.list(), { __proto__: null, bob: { data: "two" } });
  next = seen.until((all) => all.bob?.data === "one, changed");
  tab2.close();
  await next;
  next = seen.until(has());
  tab1.close();
  await next;
  assert.equal(seen.heard.filter(([, , left]) => left.length).length, 1);
  assert.equal(ann.state, "open");
});

test("a reconnect joins again with the newest data", async (t) => {
  const { server, topics: [mine, bobs] } = room(t, "ann", "bob");
  await mine.presence.join({ n: 1 });
  await mine.presence.update({ n: 2 });
  const seen = watch(bobs.presence);
  await seen.until(has("ann"));
  const gone = seen.heard.length;
  const back = seen.until((all, { joined }) => seen.heard.length > gone && ("ann" in joined || "ann" in all));
  server.drop(1006);
  await back;
  if (!("ann" in (await bobs.presence.list()))) await seen.until(has("ann"));
  assert.deepEqual(await bobs.presence.list(), { __proto__: null, ann: { data: { n: 2 } } });
});

test("after a reconnect the new state makes one change: who came, who changed, who is gone", async () => {
  const it = await open();
  const { presence } = it.client.topic("a"), heard = [];
  presence.on((all, { joined, left }) => heard.push(structuredClone([{ ...all }, { ...joined }, { ...left }])));
  await it.answer();
  it.presence({ rev: 4, state: { ann: { data: 1 }, bob: { data: 1 }, cat: {} } });
  it.presence({ rev: 1, state: { half: {} }, more: true }); // the rest never came
  heard.length = 0;
  await it.reconnect();
  it.presence({ rev: 1, state: { ann: { data: 1 } }, more: true });
  it.presence({ rev: 1, state: { bob: { data: 2 }, dan: {} } });
  assert.deepEqual(heard, [[{ ann: { data: 1 }, bob: { data: 2 }, dan: {} }, { bob: { data: 2 }, dan: {} }, { cat: {} }]]);
});

test("joining again carries the newest data; after leave, online or not, nothing comes back", async () => {
  const it = await open();
  const { presence } = it.client.topic("a");
  presence.on(() => {});
  const joined = presence.join(1);
  await it.answer();
  await joined;
  const updated = presence.update(2);
  await it.answer();
  await updated;
  await it.reconnect();
  assert.deepEqual(it.sent("subscribe").map((f) => [f.presence, f.data]), [["join", 2]]);
  it.last().drop(1006);
  await assert.rejects(presence.leave(), { code: "UNAVAILABLE", outcome: "none" });
  await it.clock.pass(1000);
  it.dials = it.opened.length;
  await it.last().accept();
  await it.answer();
  assert.deepEqual(it.sent("subscribe").map((f) => [f.presence, f.data]), [["watch", undefined]]);
  assert.deepEqual(it.sent("presence.join"), []);
});

test("a leave that overtakes the answer to join counts", async () => {
  const it = await open();
  const topic = it.client.topic("a");
  topic.on("x", () => {});
  const joined = topic.presence.join(1), left = topic.presence.leave();
  await it.answer();
  await Promise.all([joined, left]);
  await it.reconnect();
  assert.deepEqual(it.sent("subscribe").map((f) => f.presence), [undefined]);
});

test("who begins to watch while a join is under way doesn't undo it", async () => {
  let hold = true;
  const it = await open({ "presence.join": () => (hold ? undefined : { ok: {} }) });
  const topic = it.client.topic("a");
  const joined = topic.presence.join(1);
  await it.answer();
  topic.presence.on(() => {});
  await it.answer();
  assert.equal(it.sent("subscribe").length, 1);
  hold = false;
  it.last().receive({ id: it.sent("presence.join")[0].id, ok: {} });
  await joined;
  await it.answer();
  assert.deepEqual(it.sent("subscribe").map((f) => f.presence), [undefined, "join"]);
});

test("leaving ends what joining began, however often one joined", async () => {
  const it = await open();
  const topic = it.client.topic("a"), off = topic.on("x", () => {});
  const joined = [topic.presence.join(1), topic.presence.join(2)];
  await it.answer();
  await Promise.all(joined);
  const third = topic.presence.join(3);
  await it.answer();
  await third;
  const left = topic.presence.leave();
  await it.answer();
  await left;
  assert.deepEqual(it.sent("subscribe").map((f) => f.presence), [undefined, undefined]); // a join watches too, until then
  assert.deepEqual(it.sent("unsubscribe"), []);
  off();
  await it.answer();
  assert.equal(it.sent("unsubscribe").length, 1);
});

test("who watches again later is told nothing of before", async () => {
  const it = await open();
  const topic = it.client.topic("a"), heard = [];
  topic.on("x", () => {});
  const off = topic.presence.on(() => {});
  await it.answer();
  it.presence({ rev: 1, state: { ann: {} } });
  off();
  await it.answer();
  topic.presence.on((all, { joined }) => heard.push([Object.keys(all), Object.keys(joined)]));
  await it.answer();
  assert.deepEqual(heard, []);
  it.presence({ rev: 5, state: { ann: {}, bob: {} } });
  assert.deepEqual(heard, [[["ann", "bob"], ["ann", "bob"]]]);
});

test("in the server in memory who joins finds themselves in the first state", () => {
  const rooms = new Rooms(), [ann, bob] = ["ann", "bob"].map((user) => ({ conn: "c-" + user, user, frames: [], deliver(f) { this.frames.push(f); } }));
  rooms.set(ann, "a", true, { data: 1 });
  rooms.set(bob, "a", true, {});
  assert.deepEqual(ann.frames, [{ op: "presence", topic: "a", rev: 1, state: { ann: { data: 1 } } }, { op: "presence", topic: "a", rev: 2, joins: { bob: {} }, leaves: undefined }]);
  assert.deepEqual(bob.frames, [{ op: "presence", topic: "a", rev: 2, state: { ann: { data: 1 }, bob: {} } }]);
});

test("a full topic refuses join, and keeps nothing of it", async (t) => {
  const { server, topics: [ann, bob] } = room(t, "ann", "bob");
  server.maxMembers = 1;
  await ann.presence.join();
  await assert.rejects(bob.presence.join(), (e) => e.code === "RESOURCE_EXHAUSTED" && e.details.limit === 1);
  assert.deepEqual(Object.keys(await ann.presence.list()), ["ann"]);
  await settle();
  assert.equal(server.received.at(-1).frame.op, "presence");
  assert.ok(server.received.some(({ frame }) => frame.op === "unsubscribe"));
});

test("no room after a reconnect: the user hears so, messages go on, and the watching too", async () => {
  let refuse = false;
  const it = await open({ subscribe: (f) => (refuse && f.presence === "join" ? full : { ok: { topic: f.topic } }) });
  const topic = it.client.topic("a"), got = [], denied = [];
  topic.on("x", (m) => got.push(m.data));
  topic.on("$denied", (e) => denied.push(e));
  topic.presence.on(() => {});
  const joined = topic.presence.join();
  await it.answer();
  await joined;
  refuse = true;
  await it.reconnect();
  assert.deepEqual(it.errors.map((e) => [e.code, e.details.limit]), [["RESOURCE_EXHAUSTED", 2]]);
  assert.deepEqual(it.sent("subscribe").map((f) => f.presence), ["join", "watch"]);
  it.last().receive({ topic: "a", event: "x", data: 1 });
  assert.deepEqual([got, denied], [[1], []]);
  await it.reconnect();
  assert.deepEqual(it.sent("subscribe").map((f) => f.presence), ["watch"]);
});

test("what passes is tried again with the join", async () => {
  let busy = false;
  const it = await open({ subscribe: (f) => (busy ? { error: { code: "UNAVAILABLE", message: "later", retryAfterMs: 100 } } : { ok: { topic: f.topic } }) });
  const { presence } = it.client.topic("a");
  const joined = presence.join(1);
  await it.answer();
  await joined;
  busy = true;
  await it.reconnect();
  busy = false;
  await it.clock.pass(300);
  await it.answer();
  assert.deepEqual(it.sent("subscribe").map((f) => [f.presence, f.data]), [["join", 1], ["join", 1]]);
  assert.deepEqual(it.errors, []);
});

test("a state that begins anew before its end was there has nothing of the first", async () => {
  const it = await open();
  const heard = [];
  it.client.topic("a").presence.on((all) => heard.push(Object.keys(all)));
  await it.answer();
  it.presence({ rev: 3, state: { ann: {} }, more: true });
  it.presence({ rev: 5, state: { bob: {} }, more: true });
  it.presence({ rev: 5, state: { cat: {} } });
  it.presence({ rev: 6, state: { dan: {} } });
  assert.deepEqual(heard, [["bob", "cat"], ["dan"]]);
});

test("counts come with a sample; a state after them is whole again", async () => {
  const it = await open();
  const heard = [];
  it.client.topic("a").presence.on((all, { count }) => heard.push([Object.keys(all), count]));
  await it.answer();
  it.presence({ rev: 1, count: 70000, sample: { ann: {} } });
  it.presence({ rev: 2, count: 70001, sample: { bob: {} } });
  it.presence({ rev: 3, state: { bob: {}, cat: {} } });
  assert.deepEqual(heard, [[["ann"], 70000], [["bob"], 70001], [["bob", "cat"], undefined]]);
});

test("names that objects have of their own are users like others", async () => {
  const it = await open();
  const heard = [];
  it.client.topic("a").presence.on((all, { joined, left }) => heard.push([Object.keys(all), Object.keys(joined), Object.keys(left)]));
  await it.answer();
  it.last().onmessage({ data: '{"op":"presence","topic":"a","rev":1,"state":{"__proto__":{"data":1},"constructor":{}}}' });
  it.last().onmessage({ data: '{"op":"presence","topic":"a","rev":2,"leaves":{"__proto__":{"data":1}}}' });
  assert.deepEqual(heard, [[["__proto__", "constructor"], ["__proto__", "constructor"], []], [["constructor"], [], ["__proto__"]]]);
  assert.equal({}.data, undefined);
});

test("list reads all pages", async (t) => {
  const pages = { "": { users: { ann: {} }, count: 3, rev: 1, cursor: "p2" }, p2: { users: { bob: {} }, count: 3, rev: 1, cursor: "p3" }, p3: { users: { cat: {} }, count: 3, rev: 1 } };
  const server = await Server.start((f) => (f.op === "presence" ? { id: f.id, ok: pages[f.cursor ?? ""] } : null));
  const fl = connect(server.url, { WebSocket });
  t.after(() => (fl.close(), server.stop()));
  assert.deepEqual(Object.keys(await fl.topic("a").presence.list()), ["ann", "bob", "cat"]);
  assert.deepEqual(server.connections[0].frames.filter((f) => f.op === "presence").map((f) => f.cursor), [undefined, "p2", "p3"]);
});

test("the server in memory pages too, and refuses wildcards", async (t) => {
  const rooms = new Rooms();
  for (const user of ["cat", "ann", "bob"]) rooms.set({ conn: "c-" + user, user, deliver() {} }, "a", false, {});
  const { cursor, ...first } = rooms.list("a", 2);
  assert.deepEqual(first, { users: { ann: {}, bob: {} }, count: 3, rev: 3 });
  assert.deepEqual(rooms.list("a", 2, cursor), { users: { cat: {} }, count: 3, rev: 3, cursor: undefined });
  assert.equal(rooms.list("a", 3).cursor, undefined);
  const { topics: [ann], clients: [client] } = room(t, "ann");
  await assert.rejects(new Promise((_, reject) => {
    client.topic("a.*").on("$denied", reject);
    client.topic("a.*").presence.on(() => {});
  }), { code: "INVALID_ARGUMENT" });
  assert.deepEqual(await ann.presence.list(), { __proto__: null });
});

test("the members store follows", async (t) => {
  const { topics: [ann, bob] } = room(t, "ann", "bob");
  const values = [];
  let heard = () => {};
  const end = members(ann).subscribe((v) => (values.push(Object.keys(v)), heard()));
  assert.deepEqual(values, [[]]);
  const there = new Promise((resolve) => (heard = () => values.at(-1).length === 1 && resolve()));
  await bob.presence.join();
  await there;
  end();
  const n = values.length;
  await bob.presence.leave();
  assert.equal(values.length, n);
});
