// One user: a client, and what it hears and says on chat.lobby.
import { connect } from "/fairlead.js";
import { Cursors } from "./cursors.js";
import { Here, tint } from "./here.js";
import { Table } from "./table.js";

/** The most messages a pane keeps on the page. */
const maxMessages = 200;

export class Pane {
  #last; // the user of the newest message
  #seq; // the number of the topic's newest message
  #heard = 0;
  #gaps = 0;
  #repeats = 0;
  /** Begins anew where the client stays away for good. */
  again = () => location.reload();

  /** @param {string} user @param {string} name @param {string | undefined} url undefined: where the page came from */
  constructor(user, name, url, log) {
    this.user = user;
    this.name = name;
    this.element = document.querySelector("#pane").content.firstElementChild.cloneNode(true);
    this.element.id = "pane-" + user;
    tint(this.element, user);
    this.element.setAttribute("aria-label", name);
    this.part("user").textContent = name;
    this.element.querySelector(".avatar").textContent = name[0];
    this.part("messages").setAttribute("aria-label", `What ${name} sees`);
    const input = this.part("text");
    input.setAttribute("aria-label", `Message from ${name}`);
    input.placeholder = `Write as ${name}…`;

    const token = () => fetch("/demo/token?user=" + encodeURIComponent(user)).then((r) => {
      if (!r.ok) throw new Error("no token: HTTP " + r.status);
      return r.text();
    });
    this.client = connect(url, { token, WebSocket: log.socket(name) });
    this.part("drop").addEventListener("click", () => log.cut(name));
    this.#show(url);
    this.#chat(input);
    const here = new Here(this);
    this.part("members").setAttribute("aria-label", `Who ${name} sees here`);
    new Table(this, here);
    this.part("seats").setAttribute("aria-label", `The table as ${name} sees it`);
    new Cursors(this, here);
  }

  /** @param {string} role */
  part(role) {
    return this.element.querySelector(`[data-role=${role}]`);
  }

  #chat(input) {
    const room = this.client.topic("chat.lobby");
    room.on("*", (m) => this.#tally(m));
    room.on("message", (m) => this.message(m));
    room.on("$subscribed", ({ reason }) => reason && this.#note(`the past can't be read yet: ${reason}`));
    room.on("$truncated", ({ missingFrom }) => {
      this.#gaps++;
      this.#note(`what follows number ${missingFrom - 1} is gone`);
    });
    room.on("$denied", (error) => this.problem(error));
    this.client.inbox((m) => m.topic ?? this.message(m));

    this.element.querySelector("form").addEventListener("submit", async (submit) => {
      submit.preventDefault();
      const text = input.value.trim();
      if (!text) return;
      input.value = "";
      const began = performance.now();
      try {
        await room.publish("message", { text });
        this.part("ack").textContent = `ack ${(performance.now() - began).toFixed(1)} ms`;
        this.problem();
      } catch (error) {
        input.value ||= text;
        this.problem(error);
      }
    });
  }

  #show(url) {
    const { client } = this, state = this.part("state"), where = this.part("gateway");
    const host = url ? new URL(url, location.href).host : location.host;
    const show = (now, cause) => {
      state.textContent = now;
      state.dataset.state = now;
      where.textContent = client.conn ? `${client.user} · ${host} · ${client.conn}` : host;
      where.title = where.textContent;
      if (now === "failed") this.problem(cause);
      this.part("again").hidden = now !== "failed";
    };
    this.part("again").addEventListener("click", () => this.again());
    let opened = false;
    client.on("state", ({ state: now, cause }) => {
      show(now, cause);
      if (now === "open" && opened) this.#note("connected again");
      if (now === "open") opened = true;
      else if (cause && now !== "connecting") this.#note(cause.message);
    });
    client.on("system", ({ event, what }) => this.#note(`${what}: ${event}`));
    client.on("error", (error) => this.problem(error));
    show(client.state);
  }

  /** Checks that each message of the topic names the one before it, and comes once. */
  #tally({ seq, prev, direct }) {
    if (direct || seq === undefined) return;
    this.#heard++;
    if (seq <= this.#seq) this.#repeats++;
    else if (prev > this.#seq) this.#gaps++;
    this.#seq = seq;
    this.part("heard").textContent = this.#heard;
    this.part("gaps").textContent = this.#gaps;
    this.part("repeats").textContent = this.#repeats;
  }

  /** Shows a message. All of it is text of others: it is only ever set as text. */
  message(m) {
    const list = this.part("messages"), item = document.createElement("li");
    const from = m.from ?? "worker", own = m.from === this.user;
    item.dataset.role = "message";
    item.dataset.from = from;
    item.dataset.event = m.event;
    item.className = m.from === undefined ? "worker" : "person";
    if (m.from !== undefined) tint(item, m.from);
    item.classList.toggle("own", own);
    item.classList.toggle("direct", m.direct === true);
    const label = m.direct ? `${m.event}, only to ${this.name}` : own ? "you" : from;
    if (label !== this.#last) {
      const head = item.appendChild(document.createElement("div")), time = document.createElement("time");
      head.className = "from";
      time.textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      head.append(label, time);
    }
    this.#last = label;
    const body = item.appendChild(document.createElement("div"));
    body.className = "body";
    body.dataset.role = "body";
    body.textContent = m.data?.text ?? m.text ?? m.base64 ?? JSON.stringify(m.data);
    this.#append(list, item);
  }

  #note(text) {
    const item = document.createElement("li");
    item.className = "note";
    item.textContent = text;
    this.#last = undefined;
    this.#append(this.part("messages"), item);
  }

  #append(list, item) {
    list.append(item);
    while (list.children.length > maxMessages) list.firstElementChild.remove();
    list.scrollTop = list.scrollHeight;
  }

  /** Shows what went wrong; nothing takes it away. */
  problem(error) {
    const line = this.part("problem");
    line.hidden = !error;
    line.textContent = error ? `${error.code ?? "error"}: ${error.message}` : "";
  }
}
