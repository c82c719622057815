// Requests that a limit refuses, and are made again when it says so.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, FairleadError } from "../src/index.js";
import { retryAfter, retrying } from "../src/retry.js";
import { MemoryServer } from "../src/testing.js";
import { Clock, settle } from "./clock.js";

const refused = (ms, o = {}) => new FairleadError("RESOURCE_EXHAUSTED", "the limit messages is used up", { retryAfter: ms, ...o });

/** A request that is refused by each of these in turn, and then done. */
function asked(clock, ...errors) {
  const at = [];
  const ask = async (attempt) => {
    assert.equal(attempt, at.length);
    at.push(clock.at);
    if (errors.length) throw errors.shift();
    return "done";
  };
  return { at, ask };
}

/** What a promise has come to so far. */
function outcome(promise) {
  const seen = {};
  promise.then((value) => (seen.value = value), (error) => (seen.error = error));
  return seen;
}

test("it waits as long as it is told, a little at random on top, and asks again", async () => {
  const clock = new Clock(), { at, ask } = asked(clock, refused(200), refused(1000)), waits = [], began = clock.at;
  clock.chance = 0;
  const seen = outcome(retrying(ask, { onWait: (error, ms) => waits.push([error.retryAfter, ms]) }, clock.env));
  await clock.pass(199);
  assert.deepEqual(at, [began]);
  await clock.pass(1);
  assert.deepEqual(at, [began, began + 200]);
  clock.chance = 0.5; // where many wait, not all at once; later attempts are further apart
  await clock.pass(999);
  assert.equal(at.length, 2);
  await clock.pass(1);
  assert.deepEqual([at.length, seen.value], [3, "done"]);
  assert.deepEqual(waits, [[200, 200], [1000, 1000]]);

  const many = asked(clock, refused(200), refused(200), refused(0)), first = clock.at;
  const other = outcome(retrying(many.ask, {}, clock.env));
  await clock.pass(10000);
  assert.equal(other.value, "done");
  assert.deepEqual(many.at.map((ms) => ms - first), [0, 300, 300 + 400, 700 + 200]);
  assert.equal(clock.timers, 0);
});

test("an overload that refuses is waited for too; a wait may be longer than a timer takes", async () => {
  const clock = new Clock(), { at, ask } = asked(clock, new FairleadError("UNAVAILABLE", "shed", { retryAfter: 1000, outcome: "none" }), refused(2 ** 33));
  clock.chance = 0;
  const seen = outcome(retrying(ask, { timeout: 0 }, clock.env));
  await clock.pass(1000);
  assert.equal(at.length, 2);
  await clock.pass(2 ** 31 - 2);
  assert.equal(at.length, 2);
  await clock.pass(1);
  assert.equal(seen.value, "done");
});

test("what never helps, or might do it twice, is not asked again", async () => {
  const clock = new Clock();
  const final = [
    refused(null), // more than the bucket holds
    refused(undefined),
    refused(100, { outcome: "unknown" }),
    new FairleadError("UNAVAILABLE", "not connected", { outcome: "none" }), // nobody said when
    new FairleadError("UNAVAILABLE", "lost", { outcome: "unknown", retryAfter: 100 }),
    new FairleadError("UNAVAILABLE", "says a worker", { retryAfter: 100 }),
    new FairleadError("DEADLINE_EXCEEDED", "late", { outcome: "unknown", retryAfter: 100 }),
    new FairleadError("ABORTED", "read it again first", { retryAfter: 50 }),
    new FairleadError("PERMISSION_DENIED", "no"),
    new TypeError("a bug"),
  ];
  for (const error of final) {
    const { at, ask } = asked(clock, error);
    const seen = outcome(retrying(ask, {}, clock.env));
    await settle();
    assert.deepEqual([seen.error, at.length, clock.timers], [error, 1, 0]);
  }
  assert.deepEqual(final.map((error) => retryAfter(error)).filter((ms) => ms !== undefined), []);
  // With a key it is stored once however often it is sent.
  assert.deepEqual(final.map((error) => retryAfter(error, true)), [undefined, undefined, 100, undefined, 100, 100, undefined, undefined, undefined, undefined]);
  const keyed = asked(clock, final[4]), seen = outcome(retrying(keyed.ask, { idempotent: true }, clock.env));
  await clock.pass(200);
  assert.equal(seen.value, "done");
});

test("what throws at once is treated like what rejects", async () => {
  const clock = new Clock();
  let n = 0;
  const seen = outcome(retrying(() => { if (!n++) throw refused(10); return 7; }, {}, clock.env));
  await clock.pass(200);
  assert.deepEqual([seen.value, n], [7, 2]);
});

test("it does not wait beyond its time", async () => {
  const clock = new Clock(), late = refused(400), { at, ask } = asked(clock, refused(400), refused(400), late);
  clock.chance = 0;
  const began = clock.at, seen = outcome(retrying(ask, { timeout: 1000 }, clock.env));
  await clock.pass(800);
  assert.equal(seen.error, late); // the next attempt would be at 1200: it says so now
  assert.deepEqual(at.map((ms) => ms - began), [0, 400, 800]);
  const hour = refused(3_600_000), banned = outcome(retrying(asked(clock, hour).ask, {}, clock.env));
  await settle();
  assert.deepEqual([banned.error, clock.timers], [hour, 0]);
});

test("the signal ends the waiting", async () => {
  const clock = new Clock(), end = new AbortController(), { at, ask } = asked(clock, refused(500, { details: { limit: "messages" } }));
  const seen = outcome(retrying(ask, { signal: end.signal }, clock.env));
  await clock.pass(100);
  end.abort("left the page");
  await settle();
  assert.deepEqual([seen.error.code, seen.error.outcome, seen.error.cause, seen.error.details.limit], ["CANCELLED", "none", "left the page", "messages"]);
  await clock.pass(10000);
  assert.deepEqual([at.length, clock.timers], [1, 0]);
  // One that is aborted already is not waited for; the attempt itself is the caller's to abort.
  const other = asked(clock, refused(500)), gone = outcome(retrying(other.ask, { signal: end.signal }, clock.env));
  await settle();
  assert.deepEqual([gone.error.code, other.at.length, clock.timers], ["CANCELLED", 1, 0]);
});

test("through a client: a call is refused, and made again", async (t) => {
  const server = new MemoryServer(), fl = connect("ws://test/ws", { WebSocket: server.WebSocket, token: "ann" });
  t.after(() => fl.close());
  let n = 0;
  server.handle("orders.create", () => {
    if (n++ < 2) throw refused(1, { details: { limit: "orders", cost: 1, capacity: 5, remaining: 0 } });
    return n;
  });
  assert.equal(await retrying(() => fl.call("orders.create")), 3);
  server.handle("orders.many", () => { throw refused(null, { details: { cost: 9, capacity: 5 } }); });
  await assert.rejects(retrying(() => fl.call("orders.many")), { code: "RESOURCE_EXHAUSTED", retryAfter: null, details: { op: "call", cost: 9, capacity: 5 } });
});
