// A worker that listens to what clients publish below chat. When somebody asks
// there to clear the room it asks them whether they mean it: if so everybody
// hears of it, else they alone do.
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });

// A subject token of an id: all but [A-Za-z0-9_-] is escaped.
function token(id) {
  const escape = (byte) => "=" + byte.toString(16).toUpperCase().padStart(2, "0");
  return [...Buffer.from(id)].map((b) => (/[A-Za-z0-9_-]/.test(String.fromCharCode(b)) ? String.fromCharCode(b) : escape(b))).join("");
}

function withHeaders(fields) {
  const h = headers();
  for (const [name, value] of Object.entries(fields)) h.set(name, value);
  return h;
}

async function clearRoom(user, topic) {
  const timeout = 30000;
  const answer = await nc.request(`fl.ask.${token(user)}`, JSON.stringify({ text: `Clear ${topic}?` }), {
    headers: withHeaders({ "Fl-Event": "confirm", "Fl-Deadline": String(Date.now() + timeout) }),
    timeout,
  });
  const code = answer.headers?.get("Nats-Service-Error-Code");
  if (code === "NOT_FOUND") return; // gone meanwhile
  if (!code && answer.json()?.yes) {
    nc.publish(`fl.topic.${topic}`, JSON.stringify({ text: `by ${user}` }), { headers: withHeaders({ "Fl-Event": "cleared" }) });
    return;
  }
  nc.publish(`fl.user.${token(user)}`, JSON.stringify({ text: code || "not cleared" }), {
    headers: withHeaders({ "Fl-Event": "sorry", "Fl-Topic": topic }),
  });
}

// Of the workers in a queue group one gets each message.
nc.subscribe("fl.topic.chat.>", {
  queue: "workers",
  callback: (_, m) => {
    const user = m.headers?.get("Fl-User");
    if (!user || m.headers.get("Fl-Event") !== "clear") return; // of a worker, or something else
    clearRoom(user, m.subject.slice("fl.topic.".length)).catch(console.error);
  },
});
await nc.flush();
console.log("ready");
