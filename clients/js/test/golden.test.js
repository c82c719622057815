// The frames that pkg/wire's tests hold, one per file: client-*.json as a client sends them, server-*.json as a gateway does.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { Client } from "../src/client.js";
import { FairleadError } from "../src/errors.js";
import { decode } from "../src/frame.js";
import { Clock, settle, sockets } from "./clock.js";

const folder = new URL("../../../pkg/wire/testdata/golden/", import.meta.url);

/** Text by file name; throws where the folder is missing. */
const golden = (prefix) => readdirSync(folder).filter((name) => name.startsWith(prefix) && name.endsWith(".json"))
  .map((name) => [name, readFileSync(new URL(name, folder), "utf8")]);

/** A client on an open connection whose frames can be read. */
async function open(o = {}, hello = {}) {
  const clock = new Clock(), { FakeSocket, last } = sockets(clock);
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, ...o }, clock.env), errors = [];
  client.on("error", (e) => errors.push(e));
  client.ready().catch(() => {});
  await settle();
  await last().accept(hello);
  return { client, socket: last(), errors, clock };
}

const quiet = (promise) => void promise.catch(() => {});
const position = ({ after, ts }) => (after === undefined ? undefined : `${after}:${ts ?? ""}`);

/** How to have a client send a frame like `f`. Ops that are not here no method of this client sends: batch, gap, pong. */
const send = {
  subscribe: ({ client }, f) => {
    const topic = client.topic(f.topic, { since: position(f), last: f.last, cursors: f.cursors });
    if (f.presence === "watch") topic.presence.on(() => {});
    else if (f.presence) return false; // join is an op of its own, and part of a subscribe only after a reconnect
    else topic.on("*", () => {});
  },
  unsubscribe: async ({ client }, f) => {
    const off = client.topic(f.topic).on("*", () => {});
    await settle();
    off();
  },
  publish: ({ client }, f) => quiet(client.topic(f.topic).publish(f.event ?? "message", f.data, { key: f.key, echo: f.echo })),
  history: ({ client }, f) => quiet(client.topic(f.topic).history({ after: position(f), limit: f.limit })),
  presence: ({ client }, f) => (f.limit || f.cursor ? false : quiet(client.topic(f.topic).presence.list())),
  "presence.join": ({ client }, f) => quiet(client.topic(f.topic).presence.join(f.data)),
  "presence.leave": ({ client }, f) => quiet(client.topic(f.topic).presence.leave()),
  "presence.update": ({ client }, f) => quiet(client.topic(f.topic).presence.update(f.data)),
  cursor: ({ client }, f) => client.topic(f.topic).cursor.move(f.data),
  "group.join": ({ client }, f) => quiet(client.group(f.group).join({ role: f.role, data: f.data })),
  "group.leave": ({ client }, f) => quiet(client.group(f.group).leave()),
  "group.publish": ({ client }, f) => quiet(client.group(f.group).publish(f.event, f.data, { role: f.role })),
  "group.send": ({ client }, f) => quiet(client.group(f.group).send(f.member, f.event, f.data)),
  "group.members": ({ client }, f) => quiet(client.group(f.group).members()),
  "group.meta": ({ client }, f) => quiet(client.group(f.group).meta(f.meta)),
  call: ({ client }, f) => quiet(client.call(f.method, f.data, { timeout: f.timeoutMs })),
  cancel: async ({ client }) => {
    const abort = new AbortController();
    quiet(client.call("x", null, { signal: abort.signal }));
    await settle();
    abort.abort();
  },
  reply: async ({ client, socket }, f) => {
    client.serve("e", () => {
      if (f.error) throw new FairleadError(f.error.code, f.error.message);
      return f.data;
    });
    socket.receive({ op: "request", ref: f.ref, event: "e", data: null });
  },
  refresh: ({ clock }) => clock.pass(31000),
};

/** What stays the same whoever sends it: no id, no reference to one, what left out means the same as. */
function comparable({ id: _id, ...f }) {
  if (f.op === "cancel") delete f.ref;
  if (f.op === "publish") f = { event: "message", data: null, ...f };
  if (f.echo === true) delete f.echo;
  if (f.cursors === false) delete f.cursors;
  if (f.op === "history") f.after ??= 0;
  if (f.error) f.error = { code: f.error.code, message: f.error.message };
  return f;
}

test("golden frames are there", () => {
  assert.ok(golden("client-").length > 0, "no client-*.json in " + folder.pathname);
  assert.ok(golden("server-").length > 0, "no server-*.json in " + folder.pathname);
});

test("every frame of a gateway is understood", async (t) => {
  for (const [name, text] of golden("server-")) {
    await t.test(name, async () => {
      const frames = decode(text);
      for (const frame of frames) {
        // What tells a reply, a control frame and a message apart.
        assert.deepEqual(["id" in frame, "op" in frame, "event" in frame && !("op" in frame)].filter(Boolean).length, 1);
      }
      const { client, socket, errors } = await open();
      for (const { topic } of frames) if (topic) client.topic(topic).on("*", () => {});
      await settle();
      socket.onmessage({ data: text });
      await settle();
      const own = frames.filter((f) => f.id === 0 && f.error).length;
      assert.equal(errors.length, own, String(errors[own]?.cause ?? errors[own]));
      client.close();
    });
  }
});

test("what the client sends is what the gateway's tests decode", async (t) => {
  let compared = 0;
  for (const [name, text] of golden("client-")) {
    const frames = decode(text);
    if (frames.length !== 1) continue;
    const [want] = frames;
    if (want.op === "hello") {
      await t.test(name, async () => {
        const { client, socket } = await open({ token: want.token });
        const got = socket.sent[0];
        assert.equal(got.token, want.token);
        for (const key of Object.keys(got)) assert.ok(["id", "op", "token", "client", "session"].includes(key), key);
        client.close();
      });
      continue;
    }
    if (!send[want.op]) continue;
    await t.test(name, async () => {
      const it = await open({ token: () => want.token ?? null }, want.op === "refresh" ? { expiresAt: 1_000_000 + 60000 } : {});
      const before = it.socket.sent.length;
      if ((await send[want.op](it, want)) === false) return it.client.close();
      await settle();
      const got = it.socket.sent.slice(before).filter((f) => f.op === want.op).at(-1);
      assert.ok(got, "not sent");
      assert.deepEqual(comparable(got), comparable(want));
      if ("id" in got) assert.ok(Number.isSafeInteger(got.id) && got.id > 0);
      compared++;
      it.client.close();
    });
  }
  assert.ok(compared > 0, "no frame was compared");
});
