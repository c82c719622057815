import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/client.js";
import { Clock, settle, sockets } from "./clock.js";

/** A client with its hands on the clock. */
function setup(o = {}) {
  const clock = new Clock(), { opened, FakeSocket, last } = sockets(clock);
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, ...o }, clock.env);
  const states = [];
  client.on("state", (e) => states.push(e.state));
  client.on("error", () => {});
  return { clock, opened, last, client, states };
}

async function open(o, hello) {
  const it = setup(o);
  const ready = it.client.ready();
  await settle();
  await it.last().accept(hello);
  await ready;
  return it;
}

/** Passes time until another dial; returns how long that took, or null within a minute. */
async function untilDial({ clock, opened }) {
  const n = opened.length, from = clock.at;
  for (let i = 0; i <= 6000 && opened.length === n; i++) await clock.pass(i ? 10 : 0);
  return opened.length > n ? opened.at(-1).at - from : null;
}

test("the dial after each close code comes in its time, or never", async (t) => {
  const token = () => "t";
  // After a good connection the first backoff is random in [0, 300).
  for (const [code, low, high, o] of [
    [1000, null], [4400, null], [4403, null],
    [4401, null], [4401, 0, 0, { token }],
    [1001, 0, 300], [1006, 0, 300], [1009, 0, 300], [1011, 0, 300], [1012, 0, 300], [1013, 0, 300], [4408, 0, 300],
    [4429, 0, 300 * 2 ** 5],
  ]) {
    for (const chance of [0, 0.5, 0.999]) {
      await t.test(`${code} at chance ${chance}${o ? " with a token function" : ""}`, async () => {
        const it = await open(o);
        it.clock.chance = chance;
        await it.clock.pass(6000);
        it.last().drop(code);
        const took = await untilDial(it);
        if (low === null) {
          assert.equal(took, null);
          assert.equal(it.client.state, "failed");
          return;
        }
        assert.ok(took !== null && took >= low && took <= high + 10, `dialled after ${took} ms, want ${low}…${high}`);
        assert.ok(Math.abs(took - chance * high) <= 10, `dialled after ${took} ms, want ${chance * high}`);
      });
    }
  }
});

test("backoff doubles up to its maximum, and begins anew after a connection that lasted", async () => {
  const it = await open({ reconnect: { min: 100, max: 1000 } });
  it.clock.chance = 1;
  await it.clock.pass(6000);
  const waits = [];
  for (let i = 0; i < 6; i++) {
    it.last().drop(1006);
    waits.push(Math.round((await untilDial(it)) / 10) * 10);
  }
  assert.deepEqual(waits, [100, 200, 400, 800, 1000, 1000]);
  await it.last().accept();
  it.last().drop(1006); // a connection that breaks at once is no success
  assert.equal(await untilDial(it), 1000);
  await it.last().accept();
  await it.clock.pass(6000);
  it.last().drop(1006);
  assert.equal(await untilDial(it), 100);
});

test("attempts used up are the end", async () => {
  const it = setup({ reconnect: { retries: 2 } });
  const ready = assert.rejects(it.client.ready(), { code: "UNAVAILABLE" });
  for (let i = 0; i < 3; i++) {
    await settle();
    it.last().drop(1006);
    await it.clock.pass(1000);
  }
  await ready;
  assert.equal(it.opened.length, 3);
  assert.equal(it.client.state, "failed");
  await assert.rejects(it.client.call("x"), { code: "UNAVAILABLE" });
});

test("a refused token is asked for once more, then it is over", async () => {
  let asked = 0;
  const it = setup({ token: () => "t" + ++asked });
  const failed = assert.rejects(it.client.ready(), { code: "UNAUTHENTICATED" });
  for (let i = 0; i < 2; i++) {
    await settle();
    it.last().onopen({});
    const [hello] = it.last().sent;
    assert.equal(hello.token, "t" + (i + 1));
    it.last().receive({ id: hello.id, error: { code: "UNAUTHENTICATED", message: "expired" } });
    await it.clock.pass(0);
  }
  await failed;
  await it.clock.pass(60000);
  assert.equal(it.opened.length, 2);
});

test("a token function that throws is asked again with backoff", async () => {
  let asked = 0;
  const it = setup({ token: () => { if (++asked < 3) throw new Error("no network"); return "t"; } });
  it.client.ready();
  await it.clock.pass(2000);
  assert.equal(asked, 3);
  assert.equal(it.opened.length, 1);
});

test("drain: another gateway after the given delay, and not before", async () => {
  const it = await open();
  it.last().receive({ op: "drain", afterMs: 740 });
  await it.clock.pass(739);
  assert.equal(it.opened.length, 1);
  await it.clock.pass(2);
  assert.equal(it.opened.length, 2);
  assert.notEqual(it.opened[0].closedWith, 1000, "1000 would say the user left");
  assert.equal(it.client.state, "connecting");
});

test("drain: what is under way gets its answer first, for a second", async () => {
  const it = await open();
  const published = it.client.topic("a").publish("message", 1);
  await settle();
  it.last().receive({ op: "drain", afterMs: 100 });
  await it.clock.pass(500);
  assert.equal(it.opened.length, 1);
  it.last().receive({ id: it.last().sent.find((f) => f.op === "publish").id, ok: {} });
  await published;
  await it.clock.pass(60);
  assert.equal(it.opened.length, 2);
});

test("drain: closed early by the gateway, the delay still counts", async () => {
  const it = await open();
  it.last().receive({ op: "drain", afterMs: 700 });
  await it.clock.pass(200);
  it.last().drop(1001);
  await it.clock.pass(499);
  assert.equal(it.opened.length, 1);
  await it.clock.pass(2);
  assert.equal(it.opened.length, 2);
});

test("nothing heard for two heartbeats: reconnect; any frame is life", async () => {
  const it = await open({}, { heartbeatMs: 1000 });
  for (let i = 0; i < 5; i++) {
    await it.clock.pass(1500);
    it.last().receive({ op: "ping" });
  }
  assert.equal(it.opened.length, 1);
  await it.clock.pass(1999);
  assert.equal(it.client.state, "open");
  await it.clock.pass(2);
  assert.equal(it.client.state, "disconnected");
  await it.clock.pass(300);
  assert.equal(it.opened.length, 2);
});

test("a dial without an answer is given up", async () => {
  const it = setup();
  it.client.ready();
  await it.clock.pass(9999);
  assert.equal(it.opened.length, 1);
  await it.clock.pass(400);
  assert.equal(it.opened.length, 2);
});

test("being seen and being online end the wait, unless the server asked for it", async () => {
  const it = await open({ reconnect: { min: 10000 } });
  it.clock.isHidden = true;
  it.last().drop(1006);
  assert.equal(it.client.state, "suspended");
  it.clock.isHidden = false;
  it.clock.page("visibilitychange");
  await settle();
  assert.equal(it.opened.length, 2);
  it.last().drop(1006);
  assert.equal(it.client.state, "disconnected");
  it.clock.page("online");
  await settle();
  assert.equal(it.opened.length, 3);
  it.last().drop(4429);
  it.clock.page("online");
  await settle();
  assert.equal(it.opened.length, 3);
});

test("waking after a long sleep notices that the connection is dead", async () => {
  const it = await open({}, { heartbeatMs: 1000 });
  it.clock.at += 60000; // the timers of a sleeping machine don't run
  it.clock.page("visibilitychange");
  assert.equal(it.client.state, "disconnected");
});

test("a token is asked for again before it expires, and sent in band", async () => {
  let asked = 0;
  const it = await open({ token: async () => "t" + ++asked }, { expiresAt: 1_000_000 + 60000 });
  await it.clock.pass(29000);
  assert.equal(asked, 1);
  await it.clock.pass(1001);
  const refresh = it.last().sent.find((f) => f.op === "refresh");
  assert.equal(refresh.token, "t2");
  it.last().receive({ id: refresh.id, ok: { expiresAt: it.clock.at + 60000 } });
  await it.clock.pass(30001);
  assert.equal(it.last().sent.filter((f) => f.op === "refresh").length, 2);
  assert.equal(it.opened.length, 1);
});

test("close says goodbye, leaves no timer, and rejects what waits", async () => {
  const it = await open({}, { expiresAt: 1_000_000 + 60000 });
  const pending = assert.rejects(it.client.call("slow"), { code: "UNAVAILABLE", outcome: "unknown" });
  await settle();
  it.client.close();
  await pending;
  assert.equal(it.last().closedWith, 1000);
  assert.equal(it.clock.timers, 0);
  assert.equal(it.client.state, "disconnected");
  await assert.rejects(it.client.ready(), { code: "CANCELLED" });
  await assert.rejects(it.client.topic("a").publish("x", 1, { key: "k" }), { code: "CANCELLED" });
  assert.equal(it.opened.length, 1);
});

test("the session is sent again, over a page load only for who is anonymous", async () => {
  const it = await open({ persist: "session" }, { user: "anon-x" });
  it.last().drop(1006);
  await it.clock.pass(1000);
  it.last().onopen({});
  assert.equal(it.last().sent[0].session, "s1");
  it.clock.page("pagehide");
  assert.deepEqual(JSON.parse([...it.clock.stored.values()][0]), { session: "s1", positions: {} });
  const known = await open({ persist: "session", token: "t" }); // ann
  known.clock.page("pagehide");
  assert.deepEqual(JSON.parse([...known.clock.stored.values()][0]), { positions: {} });
});

test("positions outlive a page load", async () => {
  const it = await open({ persist: "session" });
  it.client.topic("log.a").on("x", () => {});
  await settle();
  it.last().receive({ id: it.last().sent.at(-1).id, ok: { topic: "log.a", seq: 4, ts: 40 } });
  it.last().receive({ topic: "log.a", event: "x", data: 1, seq: 7, prev: 4, ts: 70 });
  it.clock.page("pagehide");
  const clock = it.clock, { FakeSocket, last } = sockets(clock);
  const next = new Client("ws://test/ws", { WebSocket: FakeSocket, persist: "session" }, clock.env);
  next.topic("log.a").on("x", () => {});
  await settle();
  await last().accept();
  const { after, ts } = last().sent.find((f) => f.op === "subscribe");
  assert.deepEqual([after, ts], [7, 70]);
});
