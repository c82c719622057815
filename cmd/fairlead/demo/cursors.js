// Pointers of the users over the conversation: where each has the mouse, in parts of the box's width and height.
import { tint } from "./here.js";

/** The most pointers shown. */
const maxShown = 60;

const part = (n) => (typeof n === "number" && n >= 0 && n <= 1 ? n : undefined);

export class Cursors {
  #pane;
  #here;
  #box;
  #pointers = new Map(); // user → its pointer on the page

  constructor(pane, here) {
    this.#pane = pane;
    this.#here = here;
    this.#box = pane.part("pointers");
    const { cursor } = pane.client.topic("doc.board"), stage = pane.part("stage");
    // By rules without cursors: the page goes on without them.
    pane.client.topic("doc.board").on("$denied", () => {});
    cursor.on((all) => this.#show(all));
    stage.addEventListener("pointermove", ({ clientX, clientY }) => {
      const { left, top, width, height } = stage.getBoundingClientRect();
      // As often as the mouse moves: the client sends what is newest every 16 ms.
      cursor.move({ x: +((clientX - left) / width).toFixed(4), y: +((clientY - top) / height).toFixed(4) });
    });
    stage.addEventListener("pointerleave", () => cursor.move(null));
  }

  /** All of it is from others: numbers that are none are not shown, names are only ever set as text. */
  #show(all) {
    for (const [user, pointer] of this.#pointers) {
      if (Object.hasOwn(all, user)) continue;
      pointer.remove();
      this.#pointers.delete(user);
    }
    for (const user of Object.keys(all)) {
      const x = part(all[user]?.x), y = part(all[user]?.y);
      if (user === this.#pane.client.user || x === undefined || y === undefined) continue;
      const pointer = this.#pointers.get(user) ?? this.#pointer(user);
      pointer?.style.setProperty("--x", x);
      pointer?.style.setProperty("--y", y);
    }
  }

  #pointer(user) {
    if (this.#pointers.size >= maxShown) return;
    const pointer = this.#box.appendChild(document.createElement("li"));
    pointer.dataset.role = "pointer";
    pointer.dataset.user = user;
    pointer.textContent = this.#here.name(user);
    tint(pointer, user);
    this.#pointers.set(user, pointer);
    return pointer;
  }
}
