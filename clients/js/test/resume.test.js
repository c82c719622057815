// What a client makes of positions, and of a past that can't be read at the moment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/client.js";
import { Clock, settle, sockets } from "./clock.js";

const topic = "log.a";

/** A client subscribed to one topic, and what it hears. */
async function setup(o, since) {
  const clock = new Clock(), { opened, FakeSocket, last } = sockets(clock);
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, reconnect: { min: 1 }, ...o }, clock.env);
  const heard = [], said = [];
  const room = client.topic(topic, { since });
  room.on("x", (m) => heard.push(m.seq));
  room.on("$subscribed", ({ recovered, position, missingFrom, reason }) => said.push([recovered, position, missingFrom, reason]));
  room.on("$truncated", ({ missingFrom }) => said.push(["truncated", missingFrom]));
  await settle();
  await last().accept();
  /** Answers the newest subscribe. */
  const answer = async (ok) => {
    const { id } = last().sent.findLast((f) => f.op === "subscribe");
    last().receive({ id, ...(ok.code ? { error: ok } : { ok: { topic, ...ok } }) });
    await settle();
  };
  const receive = (...seqs) => seqs.forEach((seq) => last().receive({ topic, event: "x", data: 0, seq, prev: seq - 1, ts: seq * 10 }));
  const subscribes = () => last().sent.filter((f) => f.op !== "hello").map(({ op, after, ts }) => [op, after, ts]);
  return { clock, opened, last, client, heard, said, answer, receive, subscribes };
}

async function reconnect({ clock, last }) {
  last().drop(1006);
  await clock.pass(1000);
  await last().accept();
}

test("a past that can't be read: live messages go on, the past is asked for again and comes once", async () => {
  const it = await setup({}, "5:50");
  it.clock.chance = 0;
  await it.answer({ seq: 8, ts: 80, head: 8, recovered: false, missingFrom: 6, reason: "UNAVAILABLE" });
  it.last().receive({ op: "truncated", topic, missingFrom: 6 }); // not yet known to be gone
  it.receive(9, 10);
  assert.deepEqual(it.heard, [9, 10]);
  assert.deepEqual(it.said, [[false, "5:50", 6, "UNAVAILABLE"]]);
  await it.clock.pass(999);
  assert.equal(it.subscribes().length, 1);
  await it.clock.pass(1);
  assert.deepEqual(it.subscribes().slice(1), [["unsubscribe", undefined, undefined], ["subscribe", 5, 50]]);
  it.receive(11); // of the subscription that was ended: it comes again
  await it.answer({ seq: 10, ts: 100, head: 10, recovered: false, missingFrom: 6, reason: "UNAVAILABLE" });
  await it.clock.pass(1999);
  assert.equal(it.subscribes().length, 3, "the second pause is longer");
  await it.clock.pass(1);
  await it.answer({ seq: 5, ts: 50, head: 11, recovered: true });
  it.receive(6, 7, 8, 9, 10, 11, 12);
  assert.deepEqual(it.heard, [9, 10, 6, 7, 8, 11, 12]);
  assert.deepEqual(it.said.slice(1), [[false, "5:50", 6, "UNAVAILABLE"], [true, "5:50", undefined, undefined]]);
  await it.clock.pass(40000);
  assert.equal(it.subscribes().length, 5);
});

test("a past that can't be read survives a reconnect", async () => {
  const it = await setup({}, "5:50");
  await it.answer({ seq: 8, ts: 80, recovered: false, missingFrom: 6, reason: "DEADLINE_EXCEEDED" });
  it.receive(9);
  await reconnect(it);
  assert.deepEqual(it.subscribes(), [["subscribe", 5, 50]]);
  await it.answer({ seq: 5, ts: 50, head: 9, recovered: true });
  it.receive(6, 7, 8, 9, 10);
  await it.clock.pass(40000);
  assert.deepEqual(it.heard, [9, 6, 7, 8, 10]);
  assert.deepEqual(it.subscribes(), [["subscribe", 5, 50]], "the pause of the lost connection is over");
});

test("live messages that run too far ahead of the past wait for it", async () => {
  const it = await setup({}, "5:50");
  await it.answer({ seq: 5, ts: 50, recovered: false, missingFrom: 6, reason: "UNAVAILABLE" });
  const all = Array.from({ length: 10001 }, (_, i) => i + 6);
  it.receive(...all);
  assert.equal(it.heard.length, 10000);
  await reconnect(it);
  await it.answer({ seq: 5, ts: 50, recovered: true });
  it.receive(...all);
  assert.deepEqual(it.heard, all);
});

test("a reason that doesn't pass is the end of the past", async () => {
  const it = await setup({}, "5:50");
  await it.answer({ seq: 8, ts: 80, recovered: false, missingFrom: 6, reason: "INTERNAL" });
  it.last().receive({ op: "truncated", topic, missingFrom: 6 });
  await it.clock.pass(40000);
  assert.deepEqual(it.said, [[false, "8:80", 6, "INTERNAL"], ["truncated", 6]]);
  assert.equal(it.subscribes().length, 1);
});

test("a subscribe whose answer came too late is ended before the next", async () => {
  const it = await setup({ timeout: 3000 }, "5:50");
  it.clock.chance = 0;
  await it.clock.pass(2999);
  it.receive(6); // without its answer: comes again
  await it.clock.pass(1001);
  assert.deepEqual(it.subscribes(), [["subscribe", 5, 50], ["unsubscribe", undefined, undefined], ["subscribe", 5, 50]]);
  await it.answer({ seq: 5, ts: 50, recovered: true });
  it.receive(6, 7);
  assert.deepEqual(it.heard, [6, 7]);
});

test("the position of an empty topic goes back as it came", async () => {
  const it = await setup();
  await it.answer({ seq: 0, ts: -1760000000000 });
  assert.deepEqual(it.said, [[false, "0:-1760000000000", undefined, undefined]]);
  await reconnect(it);
  assert.deepEqual(it.subscribes(), [["subscribe", 0, -1760000000000]]);
  await it.answer({ seq: 0, ts: -1760000000000, head: 1, recovered: true });
  it.receive(1, 1, 2);
  assert.deepEqual(it.heard, [1, 2]);
  const { last } = await setup({}, "7:-1760000000000");
  assert.deepEqual(last().sent.filter((f) => f.op === "subscribe").map((f) => [f.after, f.ts]), [[7, -1760000000000]]);
});

test("new fields of a subscription don't move its position", async () => {
  const it = await setup({}, "5:50");
  it.client.topic(topic).cursor.on(() => {}); // before the first answer: waits for it
  await settle();
  assert.equal(it.subscribes().length, 1);
  await it.answer({ seq: 5, ts: 50, head: 8, recovered: true });
  it.receive(6);
  assert.equal(it.subscribes().length, 2);
  await it.answer({ seq: 8, ts: 80 }); // the gateway is ahead of what it still owes this connection
  it.receive(7, 8, 9);
  assert.deepEqual(it.heard, [6, 7, 8, 9]);
  assert.deepEqual(it.said, [[true, "5:50", undefined, undefined]]);
});

test("a keyed publish that was lost once is of unknown outcome, however it ends", async () => {
  for (const [end, code] of [
    [({ client }) => client.close(), "CANCELLED"],
    [({ abort }) => abort.abort(), "CANCELLED"],
    [async (it) => {
      await it.clock.pass(1000);
      await it.last().accept();
      it.last().receive({ id: it.last().sent.find((f) => f.op === "publish").id, error: { code: "PERMISSION_DENIED", message: "", details: { outcome: "none" } } });
    }, "PERMISSION_DENIED"],
  ]) {
    const it = await setup(), abort = new AbortController();
    const lost = assert.rejects(it.client.topic(topic).publish("x", 1, { key: "k", signal: abort.signal }), { code, outcome: "unknown" });
    await settle();
    it.last().drop(1006);
    const waits = assert.rejects(it.client.topic(topic).publish("x", 2, { key: "l", signal: AbortSignal.abort() }), { outcome: "none" });
    await end({ ...it, abort });
    await lost;
    await waits;
    it.client.close();
  }
});

test("positions outlive the tab where asked; an anonymous identity doesn't", async () => {
  const it = await setup({ persist: "local" });
  await it.answer({ seq: 4, ts: 40 });
  it.clock.page("pagehide");
  assert.deepEqual(JSON.parse(it.clock.stored.get("fairlead:ws://test/ws")), { positions: { [topic]: "4:40" } });
});

test("positions of topics long gone don't pile up", async () => {
  const clock = new Clock(), { FakeSocket, last } = sockets(clock);
  const positions = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => ["old." + i, "1:1"]));
  clock.stored.set("fairlead:ws://test/ws", JSON.stringify({ positions }));
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, persist: "session" }, clock.env);
  client.topic(topic).on("x", () => {});
  await settle();
  await last().accept();
  last().receive({ id: last().sent.find((f) => f.op === "subscribe").id, ok: { topic, seq: 4, ts: 40 } });
  clock.page("pagehide");
  const kept = JSON.parse(clock.stored.get("fairlead:ws://test/ws")).positions;
  assert.equal(Object.keys(kept).length, 1000);
  assert.equal(kept[topic], "4:40");
  assert.equal(kept["old.0"], undefined);
});
