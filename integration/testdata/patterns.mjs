// The clients of docs/patterns.md against a gateway and the pattern's worker: patterns.mjs PATTERN HTTP-ADDRESS [POLICY].
import assert from "node:assert/strict";
import { WebSocket } from "../../clients/js/node_modules/ws/wrapper.mjs";
import { openChannel } from "../../examples/patterns/channel/client.js";
import { follow } from "../../examples/patterns/delta/client.js";
import { outcomes, submit } from "../../examples/patterns/flow/client.js";
import { login } from "../../examples/patterns/login/client.js";
import { connect } from "../../clients/js/src/index.js";

const [pattern, http, policy] = process.argv.slice(2);

/** A user's client, whose connection can be cut, and kept from coming back. */
function as(user) {
  const sockets = [];
  let gate = Promise.resolve(), open = () => {};
  class Socket extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const token = async () => {
    await gate;
    return (await fetch(`${http}/demo/token?user=${user}`)).text();
  };
  const fl = connect(http + "/ws", { WebSocket: Socket, token, reconnect: { min: 1, max: 100 } });
  return {
    fl,
    cut: () => sockets.at(-1).terminate(),
    hold: () => (gate = new Promise((resolve) => (open = resolve))),
    release: () => open(),
  };
}

/** Resolves once `condition` holds, looked at whenever `changed` is called. */
function watcher() {
  const waiting = new Set();
  return {
    changed: () => waiting.forEach((w) => w.condition() && (waiting.delete(w), w.resolve())),
    until: (condition, what) => new Promise((resolve, reject) => {
      if (condition()) return resolve();
      const timer = setTimeout(() => reject(new Error("never: " + (what ?? condition))), 30000);
      waiting.add({ condition, resolve: () => (clearTimeout(timer), resolve()) });
    }),
  };
}

const scenarios = {
  async channel() {
    const ann = as("ann"), channel = await openChannel(ann.fl, "draft");
    assert.deepEqual(channel.state, null);
    let applied = 0;
    const sends = Array.from({ length: 300 }, (_, i) => channel.send(i).then(() => ++applied === 100 && ann.cut()));
    await Promise.all(sends);
    const ask = (seq, data) => ann.fl.call("channel.send", { channel: "draft", seq, data });
    const { seq, state } = await ask(0);
    assert.deepEqual([seq, state], [300, Array.from({ length: 300 }, (_, i) => i)]);
    assert.equal((await ask(7, "again")).seq, 300); // a duplicate is acknowledged, and changes nothing
    await assert.rejects(ask(500, "early"), (e) => {
      assert.deepEqual([e.code, e.message], ["FAILED_PRECONDITION", "SEQUENCE_GAP"]);
      const { expectedSeq, receivedSeq, resumeFrom } = e.details;
      assert.deepEqual({ expectedSeq, receivedSeq, resumeFrom }, { expectedSeq: 301, receivedSeq: 500, resumeFrom: 300 });
      return true;
    });
    const again = await openChannel(as("ann").fl, "draft"); // another page, or the same one loaded again
    assert.equal((await again.send("more")).seq, 301);
    const lost = channel.send("from a page that does not know"); // its 301 is known: it must open the channel anew
    assert.equal((await lost).seq, 301);
    assert.deepEqual((await openChannel(as("bob").fl, "draft")).state, null); // everybody has channels of their own
  },

  async delta() {
    const ann = as("ann"), { fl: bob } = as("bob"), seen = [], { changed, until } = watcher();
    let reads = 0, now;
    const counting = { topic: (name) => ann.fl.topic(name), call: (...args) => (reads++, ann.fl.call(...args)) };
    const off = follow(counting, "7", (state, rev) => {
      seen.push(rev);
      now = state;
      changed();
    });
    const at = (rev) => until(() => seen.at(-1) === rev, "revision " + rev);
    const edit = (n, set = { n }) => bob.call("doc.edit", { doc: "7", set });
    await at(0);
    for (let n = 1; n <= 50; n++) await edit(n);
    await at(50);
    assert.deepEqual([now, reads], [{ n: 50 }, 1]);
    assert.deepEqual(seen, Array.from({ length: 51 }, (_, i) => i)); // each revision, none twice

    ann.hold();
    ann.cut();
    for (let n = 51; n <= 60; n++) await edit(n);
    ann.release();
    await at(60);
    assert.equal(reads, 1); // what was missed was still there
    assert.deepEqual(seen, Array.from({ length: 61 }, (_, i) => i));

    ann.hold();
    ann.cut();
    for (let n = 61; n <= 200; n++) await edit(n, { n, ["k" + n]: 1 });
    ann.release();
    await at(200);
    assert.equal(Object.keys(now).length, 141); // away for longer than the topic keeps: the document was read
    assert.ok(reads > 1);

    const before = reads;
    await bob.topic("doc.7").publish("delta", { rev: 900, set: { bad: 1 } }); // as if those up to it were lost
    await until(() => reads > before) ;
    await edit(201);
    await at(201);
    assert.equal("bad" in now, false);

    await Promise.all(Array.from({ length: 20 }, (_, i) => edit(0, { ["p" + i]: i }))); // several workers at once
    await at(221);
    for (let i = 0; i < 20; i++) assert.equal(now["p" + i], i);
    off();
  },

  async flow() {
    const { fl } = as("ann"), got = [], { changed, until } = watcher();
    outcomes(fl, (event, { id }) => {
      got.push(event + " " + id);
      changed();
    });
    await fl.ready();
    assert.equal((await submit(fl, { id: "busy", ms: 3000 })).id, "busy");
    await until(() => got.includes("started busy"));
    assert.deepEqual(await submit(fl, { id: "a" }), { id: "a", queueDepth: 1 });
    assert.deepEqual(await submit(fl, { id: "b" }), { id: "b", queueDepth: 2 });
    const done = { queue: ["a", "b", "c"], "drop-new": ["a", "b"], "drop-oldest": ["b", "c"] }[policy];
    if (policy === "queue") {
      await assert.rejects(fl.call("jobs.submit", { id: "c" }), (e) => {
        assert.deepEqual([e.code, e.retryAfter, e.details.queueDepth], ["RESOURCE_EXHAUSTED", 200, 2]);
        return true;
      });
      const abort = new AbortController(), given = submit(fl, { id: "x" }, { signal: abort.signal });
      queueMicrotask(() => abort.abort());
      await assert.rejects(given);
    }
    const answer = await submit(fl, { id: "c" });
    assert.equal(answer.id, "c");
    assert.equal(answer.dropped, policy === "drop-new" ? true : undefined);
    if (policy === "drop-oldest") await until(() => got.includes("dropped a"));
    await until(() => got.includes("done " + done.at(-1)));
    assert.deepEqual(got.filter((e) => e.startsWith("done")), ["busy", ...done].map((id) => "done " + id));
  },

  async login() {
    const ann = as("ann").fl, bob = as("bob").fl, waits = [];
    const right = (fl, account) => fl.call("auth.login", { account, password: "secret of " + account });
    const wrong = (fl, account) => fl.call("auth.login", { account, password: "123456" });
    const refused = (code) => (e) => (assert.equal(e.code, code, e.message), true);
    for (let i = 0; i < 8; i++) assert.equal(await right(ann, "ann"), "welcome, ann"); // more than the limit: right ones are free
    for (let i = 0; i < 3; i++) await assert.rejects(wrong(bob, "ann"), refused("PERMISSION_DENIED"));
    let error;
    for (let i = 0; i < 10 && error?.code !== "RESOURCE_EXHAUSTED"; i++) error = await wrong(bob, "ann").catch((e) => e); // on whichever worker
    assert.ok(error.code === "RESOURCE_EXHAUSTED" && error.retryAfter > 0, error.message);
    assert.equal(await right(ann, "ann"), "welcome, ann"); // who is refused took nothing of the account's
    assert.equal(await login(bob, "bob", "secret of bob", { onWait: (ms) => waits.push(ms) }), "welcome, bob"); // once he may
    assert.ok(waits.every((ms) => ms > 0), `waited ${waits}`);
  },
};

await scenarios[pattern]();
console.log("passed");
process.exit();
