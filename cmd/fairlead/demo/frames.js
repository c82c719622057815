// The frame log: sockets that show what passes through them.

/** The most frames kept on the page. */
const maxFrames = 200;

export class FrameLog {
  #list;
  #count;
  #n = 0;
  #open = new Map(); // pane → its newest socket

  constructor(element) {
    this.#list = element.querySelector("[data-role=frames]");
    this.#count = element.querySelector("[data-role=frame-count]");
  }

  /** A WebSocket class whose frames are logged under a pane's name. */
  socket(pane) {
    const log = this;
    return class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols);
        log.#open.set(pane, this);
        this.addEventListener("message", ({ data }) => log.#add(pane, "down", data));
        this.addEventListener("close", ({ code }) => log.#add(pane, "down", `closed ${code}`));
      }

      send(data) {
        log.#add(pane, "up", data);
        super.send(data);
      }
    };
  }

  /** Ends a pane's connection as a lost network would. */
  cut(pane) {
    this.#open.get(pane)?.close(4000, "dropped by hand");
  }

  #add(pane, direction, data) {
    const row = document.createElement("li"), time = document.createElement("time");
    row.className = direction;
    time.textContent = new Date().toISOString().slice(11, 23);
    const arrow = document.createElement("span"), text = document.createElement("span");
    arrow.className = "pane-name";
    text.className = "frame";
    arrow.textContent = `${pane} ${direction === "up" ? "→" : "←"}`;
    // A token is a password for as long as it lives: it isn't for a screenshot.
    text.textContent = String(data).replace(/("token":")[^"]*/g, "$1…");
    row.append(time, " ", arrow, " ", text);
    this.#list.prepend(row);
    while (this.#list.children.length > maxFrames) this.#list.lastElementChild.remove();
    this.#count.textContent = ++this.#n;
  }
}
