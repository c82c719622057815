// A scripted gateway on a real socket: it records every WebSocket message and answers as a test says.
import { once } from "node:events";
import { WebSocketServer } from "ws";

/** Answers what a gateway of today would; `undefined` = nothing. */
export function answer(frame, n) {
  switch (frame.op) {
    case "hello":
      return { id: frame.id, ok: { conn: "c" + n, user: "ann", session: "s1", gateway: "g1", heartbeatMs: 25000, maxPayloadBytes: 1000000 } };
    case "subscribe":
      return { id: frame.id, ok: { topic: frame.topic } };
    case "unsubscribe":
    case "publish":
      return { id: frame.id, ok: {} };
  }
}

export class Server {
  /** One entry per connection: { socket, messages: parsed WebSocket messages, frames, protocol, at, close } */
  connections = [];
  /** (frame, connection, server) → reply, array of frames, string as it stands, null = default, undefined = nothing */
  script = () => null;
  #wss;
  #waiting = new Set();

  static async start(script) {
    const server = new Server();
    if (script) server.script = script;
    server.#wss = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await once(server.#wss, "listening");
    server.url = `ws://127.0.0.1:${server.#wss.address().port}/ws`;
    server.#wss.on("connection", (socket) => server.#accept(socket));
    return server;
  }

  #accept(socket) {
    const connection = { socket, n: this.connections.length + 1, messages: [], frames: [], protocol: socket.protocol, at: Date.now(), closed: undefined };
    connection.send = (...frames) => frames.forEach((f) => socket.send(typeof f === "string" ? f : JSON.stringify(f)));
    this.connections.push(connection);
    socket.on("message", (data) => {
      const message = JSON.parse(data);
      connection.messages.push(message);
      for (const frame of [message].flat()) {
        connection.frames.push(frame);
        let reply = this.script(frame, connection, this);
        if (reply === null) reply = answer(frame, connection.n);
        if (reply !== undefined) connection.send(reply);
      }
      this.#check();
    });
    socket.on("close", (code) => {
      connection.closed = code;
      this.#check();
    });
    this.#check();
  }

  #check() {
    for (const w of this.#waiting) {
      const value = w.condition();
      if (value) w.resolve(value), this.#waiting.delete(w);
    }
  }

  /** Resolves with the first truthy value of `condition`, looked at after everything that arrives; rejects after 5 s. */
  until(condition, what = condition.toString()) {
    const value = condition();
    if (value) return Promise.resolve(value);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("did not happen: " + what)), 5000);
      this.#waiting.add({ condition, resolve: (v) => (clearTimeout(timer), resolve(v)) });
    });
  }

  /** The first frame of an op, once it is there. */
  frame(op, n = 0) {
    return this.until(() => this.connections[n]?.frames.find((f) => f.op === op), `${op} on connection ${n + 1}`);
  }

  async stop() {
    for (const socket of this.#wss.clients) socket.terminate();
    this.#wss.close();
    await once(this.#wss, "close");
  }
}

/** Resolves at the client's next state `wanted`. */
export function state(client, wanted) {
  if (client.state === wanted) return Promise.resolve({ state: wanted });
  return new Promise((resolve) => {
    const off = client.on("state", (e) => e.state === wanted && (off(), resolve(e)));
  });
}
