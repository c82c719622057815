// A worker that does the tasks images.resize: it says that it is alive and how
// far it is, and stops when the attempt is not its own any more.
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });

const name = "images.resize", slots = 4, lease = 10000; // ms within which it is heard again, or lost
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let running = 0;
const waiting = [];

function withHeaders(fields) {
  const h = headers();
  for (const [name, value] of Object.entries(fields)) h.set(name, value);
  return h;
}

// Says something of an attempt to whoever supervises it, and returns the code of what it is told.
async function say(m, body, fields) {
  const answer = await nc.request(m.reply, body, { headers: withHeaders(fields), timeout: 2000 });
  return answer.headers?.get("Nats-Service-Error-Code");
}

// Ends an attempt: says so until the service has it, or somebody else has the task.
async function end(m, body, fields = {}) {
  for (let tries = 0; tries < 60; tries++) {
    const code = await say(m, body, fields).catch(() => "UNAVAILABLE");
    if (code !== "UNAVAILABLE" && code !== "RESOURCE_EXHAUSTED") return;
    await sleep(1000);
  }
}

const fail = (m, code, text) => end(m, "", { "Nats-Service-Error-Code": code, "Nats-Service-Error": text });

async function work(m, until) {
  let input;
  try {
    input = m.json();
  } catch {}
  if (!Array.isArray(input?.sizes)) return fail(m, "INVALID_ARGUMENT", "sizes: must be a list"); // no other attempt mends it

  const stop = new AbortController(), progress = { done: 0, total: input.sizes.length };
  const cancel = nc.subscribe(m.headers.get("Fl-Task-Cancel"), { callback: () => stop.abort("cancelled") });
  const beat = async () => {
    const fields = { "Fl-Task-Progress": "1", "Fl-Task-Lease-Ms": String(lease) };
    const code = await say(m, JSON.stringify(progress), fields).catch(() => undefined); // the next one may be heard
    if (code === "FAILED_PRECONDITION") stop.abort("given up");
  };
  const timer = setInterval(beat, lease / 3);
  try {
    for (const size of input.sizes) {
      await beat();
      // Whoever stores what comes of it is told the same key by every attempt: it stores it once.
      await resize(input.image, size, `${m.headers.get("Fl-Idempotency-Key")}/${size}`);
      if (performance.now() > until) stop.abort("out of time");
      if (stop.signal.aborted) {
        console.log(m.headers.get("Fl-Task-Id"), stop.signal.reason);
        return await fail(m, "CANCELLED", stop.signal.reason); // where it was given up this is refused
      }
      progress.done++;
    }
  } catch (error) {
    return await fail(m, "UNAVAILABLE", error.message); // the policy of the name says whether another attempt follows
  } finally {
    clearInterval(timer);
    cancel.unsubscribe();
  }
  await end(m, JSON.stringify({ image: input.image, sizes: input.sizes.length }));
}

async function resize(image, size, key) {
  await sleep(100); // the work
}

// At most so many at a time. One that waited here until its time was over is somebody else's by now.
async function next() {
  while (running < slots && waiting.length > 0) {
    const { m, until } = waiting.shift();
    if (performance.now() > until) continue;
    running++;
    work(m, until).catch(console.error).finally(() => (running--, next()));
  }
}

nc.subscribe(`fl.task.${name}`, {
  queue: "workers", // each attempt reaches one of them
  callback: (_, m) => {
    waiting.push({ m, until: performance.now() + Number(m.headers.get("Fl-Task-Timeout-Ms")) });
    next();
  },
});
await nc.flush();
// What waits for a worker goes out at once, and no more than this one takes.
const hello = JSON.stringify({ names: [name], worker: `resizer-${process.pid}`, slots });
nc.publish("fl.svc.tasks.hello", hello);
setInterval(() => nc.publish("fl.svc.tasks.hello", hello), 10000);
console.log("ready");
