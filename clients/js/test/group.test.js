import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { Client } from "../src/client.js";
import { connect } from "../src/index.js";
import { MemoryServer } from "../src/testing.js";
import { Clock, settle, sockets } from "./clock.js";
import { Server } from "./server.js";

/** Clients of users on one server in memory. */
function room(t, ...users) {
  const server = new MemoryServer();
  const clients = users.map((token) => connect("ws://test/ws", { WebSocket: server.WebSocket, token, reconnect: { min: 1, max: 1 } }));
  t.after(() => clients.forEach((c) => c.close()));
  return { server, clients, groups: clients.map((c) => c.group("game 7")) };
}

/** What a group's listeners heard, oldest first: event and data. */
function hear(group, ...events) {
  const heard = [];
  for (const event of events) group.on(event, (e) => heard.push([event, event.startsWith("$") ? e : e.data]));
  return heard;
}

const once = (group, event) => new Promise((resolve) => {
  const off = group.on(event, (e) => (off(), resolve(e)));
});

test("members know each other, by connection", async (t) => {
  const { clients: [a, b], groups: [ann, bob] } = room(t, "ann", "bob");
  assert.deepEqual(await ann.join({ role: "admin", data: { seat: 1 } }), { count: 1, meta: null, member: a.conn });
  const joined = once(ann, "$joined");
  assert.deepEqual(await bob.join(), { count: 2, meta: null, member: b.conn });
  assert.deepEqual(await joined, { [b.conn]: { role: "member" } });
  assert.deepEqual(await bob.members(), { members: { [a.conn]: { role: "admin", data: { seat: 1 } }, [b.conn]: { role: "member" } }, count: 2, meta: null });
  const meta = once(bob, "$meta");
  assert.deepEqual(await ann.meta({ round: 2 }), { round: 2 });
  assert.deepEqual(await meta, { round: 2 });
  assert.deepEqual(await bob.meta(), { round: 2 });
  const left = once(ann, "$left");
  await bob.leave();
  assert.deepEqual(await left, { [b.conn]: { role: "member" } });
  await bob.leave(); // twice is no error
  await assert.rejects(bob.members(), { code: "FAILED_PRECONDITION" });
});

test("messages go to all, to a role, to one", async (t) => {
  const { clients: [a, b], groups: [ann, bob] } = room(t, "ann", "bob");
  await ann.join({ role: "admin" });
  await bob.join();
  const heard = [hear(ann, "move", "*"), hear(bob, "move", "*")];
  await bob.publish("move", "all");
  await bob.publish("move", "admins", { role: "admin" });
  await ann.send(b.conn, "move", "bob");
  await assert.rejects(ann.send("nobody", "move", 1), { code: "NOT_FOUND" });
  const both = (...data) => data.flatMap((d) => [["move", d], ["*", d]]);
  assert.deepEqual(heard, [both("all", "admins"), both("all", "bob")]);
  const m = once(ann, "move");
  await bob.publish("move", 1);
  assert.deepEqual(await m, { group: "game 7", event: "move", data: 1, from: "bob" });
  assert.ok(a.conn !== b.conn);
});

test("a full group and a closed one refuse", async (t) => {
  const { server, groups: [ann, bob] } = room(t, "ann", "bob");
  server.maxMembers = 1;
  await ann.join();
  await assert.rejects(bob.join(), (e) => e.code === "RESOURCE_EXHAUSTED" && e.details.limit === 1 && e.retryAfter === 1000);
  await ann.join({ data: "again" }); // its own seat is no other
  const closed = once(ann, "$closed");
  server.closeGroup("game 7");
  assert.equal(await closed, true);
  await assert.rejects(ann.join(), { code: "FAILED_PRECONDITION" });
});

test("a lost connection leaves, and comes back with its role and data", async (t) => {
  const { server, clients: [a], groups: [ann, bob] } = room(t, "ann", "bob");
  await ann.join({ role: "admin", data: 1 });
  await bob.join();
  const old = a.conn, again = once(ann, "$rejoined");
  server.drop(1006);
  const { member } = await again;
  assert.notEqual(member, old);
  assert.equal(member, a.conn);
  assert.deepEqual((await ann.members()).members[member], { role: "admin", data: 1 });
});

/** A client on sockets in the test's hands, in the group g. */
async function joined(answer) {
  const clock = new Clock(), { FakeSocket, last, opened } = sockets(clock), errors = [];
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket }, clock.env);
  client.on("error", (e) => errors.push(e));
  client.ready().catch(() => {});
  await settle();
  await last().accept();
  const group = client.group("g");
  const it = {
    client, group, clock, errors, last,
    joins: () => last().sent.filter((f) => f.op === "group.join"),
    async reconnect() {
      const dials = opened.length;
      last().drop(1006);
      while (opened.length === dials) await clock.pass(100);
      await last().accept();
    },
    async answer(reply, n = -1) {
      await settle();
      last().receive({ id: it.joins().at(n).id, ...reply });
      await settle();
    },
  };
  const done = group.join({ role: "admin" });
  await it.answer(answer ?? { ok: { count: 1, meta: null, member: "c1" } });
  await done;
  return it;
}

const full = { error: { code: "RESOURCE_EXHAUSTED", message: "full", retryAfterMs: 1000, details: { limit: 3 } } };

test("no seat after a reconnect: the user hears so, and gets the next that is free", async () => {
  const it = await joined(), heard = hear(it.group, "$rejoined");
  await it.reconnect();
  await it.answer(full);
  assert.deepEqual(it.errors.map((e) => e.code), ["RESOURCE_EXHAUSTED"]);
  const lost = hear(it.group, "$lost");
  await it.clock.pass(2000);
  await it.answer(full);
  assert.deepEqual([lost.length, it.errors.length], [1, 1]);
  await it.clock.pass(2000);
  await it.answer({ ok: { count: 3, meta: 1, member: "c2" } });
  assert.deepEqual(heard, [["$rejoined", { count: 3, meta: 1, member: "c2" }]]);
  await it.clock.pass(20000);
  assert.equal(it.joins().length, 3);
});

test("a seat that is refused for good is not asked for again", async () => {
  const it = await joined(), lost = hear(it.group, "$lost");
  await it.reconnect();
  await it.answer({ error: { code: "PERMISSION_DENIED", message: "no" } });
  assert.equal(lost[0][1].code, "PERMISSION_DENIED");
  await it.reconnect();
  assert.deepEqual(it.joins(), []);
});

test("a connection lost while the seat is asked for costs nothing but the time", async () => {
  const it = await joined(), lost = hear(it.group, "$lost");
  await it.reconnect();
  assert.equal(it.joins().length, 1);
  await it.reconnect();
  assert.deepEqual(it.joins().map((f) => f.role), ["admin"]);
  assert.deepEqual([lost, it.errors], [[], []]);
});

test("left, put out or closed: nothing comes back", async (t) => {
  const ends = {
    "left offline": async (it) => {
      it.last().drop(1006);
      await assert.rejects(it.group.leave(), { code: "UNAVAILABLE" });
    },
    "left online": async (it) => void it.group.leave().catch(() => {}),
    "put out": async (it) => it.last().receive({ op: "group", group: "g", left: { [it.client.conn]: { role: "admin" } } }),
    closed: async (it) => it.last().receive({ op: "group", group: "g", closed: true }),
  };
  for (const [name, end] of Object.entries(ends)) {
    await t.test(name, async () => {
      const it = await joined();
      await end(it);
      if (it.client.state === "open") await it.reconnect();
      else {
        await it.clock.pass(1000);
        await it.last().accept();
      }
      assert.deepEqual(it.joins(), []);
    });
  }
  await t.test("another one left", async () => {
    const it = await joined();
    it.last().receive({ op: "group", group: "g", left: { other: { role: "admin" } } });
    await it.reconnect();
    assert.equal(it.joins().length, 1);
  });
});

test("a leave that overtakes the answer to join counts", async () => {
  const it = await joined();
  it.group.join({ role: "member" }).catch(() => {});
  it.group.leave().catch(() => {});
  await it.answer({ ok: { count: 1, meta: null, member: "c1" } });
  await it.reconnect();
  assert.deepEqual(it.joins(), []);
});

test("ops and frames on a real socket", async (t) => {
  const replies = { "group.join": { count: 1, meta: { a: 1 }, member: "c1" }, "group.members": { members: { c1: { role: "member" } }, count: 1, meta: null } };
  const server = await Server.start((f) => (replies[f.op] ? { id: f.id, ok: replies[f.op] } : null));
  const fl = connect(server.url, { WebSocket });
  t.after(() => (fl.close(), server.stop()));
  const group = fl.group("g"), heard = hear(group, "$joined", "$left", "$meta", "$closed", "move");
  assert.deepEqual(await group.join({ data: 1 }), replies["group.join"]);
  server.connections[0].send(
    { op: "group", group: "g", joined: { c2: { role: "member" } }, meta: null }, { group: "g", event: "move", data: 1 },
    { op: "group", group: "other", closed: true }, { op: "group", group: "g", left: { c2: { role: "member" } } }, { op: "group", group: "g", closed: true });
  assert.deepEqual(await group.members(), replies["group.members"]);
  assert.deepEqual(heard, [["$joined", { c2: { role: "member" } }], ["$meta", null], ["move", 1], ["$left", { c2: { role: "member" } }], ["$closed", true]]);
});
