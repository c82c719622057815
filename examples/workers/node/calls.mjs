// A worker that answers calls: orders.create at once, report.build with
// progress until nobody waits.
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });

const progress = headers();
progress.set("Fl-Progress", "1");

function fail(m, code, text) {
  const h = headers();
  h.set("Nats-Service-Error-Code", code);
  h.set("Nats-Service-Error", text);
  m.respond("", { headers: h });
}

function input(m) {
  try {
    return m.json() ?? {};
  } catch {
    return {}; // not JSON
  }
}

function createOrder(m) {
  if (!input(m).item) return fail(m, "INVALID_ARGUMENT", "item: is required");
  m.respond(JSON.stringify({ order: 17, for: m.headers?.get("Fl-User") }));
}

async function buildReport(m) {
  const { pages } = input(m);
  if (typeof pages !== "number") return fail(m, "INVALID_ARGUMENT", "pages: must be a number");
  let cancelled = false;
  const subject = m.headers?.get("Fl-Cancel");
  const sub = subject && nc.subscribe(subject, { callback: () => (cancelled = true) });
  for (let page = 1; page <= pages && !cancelled; page++) {
    await new Promise((resolve) => setTimeout(resolve, 100)); // the work
    m.respond(JSON.stringify({ page }), { headers: progress });
  }
  if (sub) sub.unsubscribe();
  if (cancelled) return console.log(m.headers?.get("Fl-User"), "does not wait any more");
  m.respond(JSON.stringify({ pages }));
}

// Workers of one method share a queue group: each call reaches one of them.
nc.subscribe("fl.call.orders.create", { queue: "workers", callback: (_, m) => createOrder(m) });
nc.subscribe("fl.call.report.build", { queue: "workers", callback: (_, m) => buildReport(m) });
await nc.flush();
console.log("ready");
