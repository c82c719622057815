// Who is in the room: avatars, the same on every gateway, and what a user says of itself there.

/** The most avatars shown; the number beside them says how many there are. */
const maxShown = 60;

/** How long after its last key somebody is typing, in milliseconds. */
const typingFor = 2000;

/** Gives what is shown of a user the hue that it has on every page. */
export function tint(element, user) {
  let hash = 0;
  for (const c of user) hash = Math.imul(hash ^ c.codePointAt(0), 16777619);
  element.style.setProperty("--hue", (hash >>> 8) % 360);
}

/** What a member is called: by the token's `info`, else by its user id. */
export function nameOf(user, member) {
  const name = member?.info?.name;
  return (typeof name === "string" && name.trim() ? name.trim() : user).slice(0, 40);
}

/** A user's circle with its initials. */
export function face(user, name) {
  const circle = document.createElement("span");
  circle.className = "face";
  tint(circle, user);
  circle.setAttribute("aria-hidden", "true");
  circle.textContent = name.split(/\s+/, 2).map((word) => [...word][0]).join("").toUpperCase();
  return circle;
}

export class Here {
  /** Everybody as it was heard last: user → `{ info, data }`. All of it is text of others. */
  all = {};
  /** Called after every change of `all`. */
  changed = () => {};

  #pane;
  #presence;
  #mine = {}; // what this user says of itself
  #said; // that, as the server has it; undefined: it may not have it
  #joined = false;
  #items = new Map(); // user → its item on the page
  #typing;

  constructor(pane) {
    this.#pane = pane;
    const room = pane.client.topic("chat.lobby");
    this.#presence = room.presence;
    const off = this.#presence.on((all, { count }) => this.#show(all, count));
    room.on("$denied", off); // by rules without presence: the conversation goes on without it
    pane.client.on("state", ({ state }) => state === "open" && this.#say());

    const away = pane.part("away");
    away.addEventListener("click", () => {
      const is = away.getAttribute("aria-pressed") !== "true";
      away.setAttribute("aria-pressed", is);
      this.set({ status: is ? "away" : undefined });
    });
    const still = () => {
      clearTimeout(this.#typing);
      if (this.#mine.status === "typing") this.set({ status: undefined });
    };
    pane.part("text").addEventListener("input", () => {
      away.setAttribute("aria-pressed", "false");
      if (this.#mine.status !== "typing") this.set({ status: "typing" });
      clearTimeout(this.#typing);
      this.#typing = setTimeout(still, typingFor);
    });
    pane.element.querySelector("form").addEventListener("submit", still);
  }

  /** Changes what this user says of itself; undefined takes a field out. */
  set(fields) {
    this.#mine = { ...this.#mine, ...fields };
    this.#say();
  }

  /** What a user is called, whether it is here or not. */
  name(user) {
    return nameOf(user, Object.hasOwn(this.all, user) ? this.all[user] : undefined);
  }

  async #say() {
    const { client } = this.#pane, data = this.#mine, text = JSON.stringify(data);
    if (client.state !== "open" || this.#said === text) return;
    this.#said = text;
    try {
      await (this.#joined ? this.#presence.update(data) : this.#presence.join(data));
      this.#joined = true; // and the client joins again with every new connection
    } catch (error) {
      if (this.#said === text) this.#said = undefined; // the next connection says it
      if (client.state !== "open") return;
      if (error.code === "UNAVAILABLE") setTimeout(() => this.#say(), error.retryAfter ?? 2000);
      else this.#pane.problem(error);
    }
  }

  /** Adds, changes and removes items, and leaves those alone that stay: nothing on the page flickers. */
  #show(all, count) {
    this.all = all;
    const list = this.#pane.part("members");
    for (const [user, item] of this.#items) {
      if (Object.hasOwn(all, user)) continue;
      item.remove();
      this.#items.delete(user);
    }
    for (const user of Object.keys(all)) {
      let item = this.#items.get(user);
      if (!item && this.#items.size >= maxShown) continue;
      if (!item) {
        this.#items.set(user, (item = this.#item(user, nameOf(user, all[user]))));
        list.append(item);
      }
      const status = all[user].data?.status;
      item.lastElementChild.textContent = typeof status === "string" ? status.slice(0, 20) : "";
      item.dataset.status = item.lastElementChild.textContent;
    }
    const n = count ?? Object.keys(all).length;
    this.#pane.part("here").textContent = n;
    this.changed();
  }

  #item(user, name) {
    const item = document.createElement("li"), label = document.createElement("span"), status = document.createElement("small");
    item.dataset.role = "member";
    item.dataset.user = user;
    item.title = user;
    label.className = "name";
    label.textContent = name;
    item.append(face(user, name), label, status);
    if (user === this.#pane.client.user) {
      item.className = "me";
      label.append(" (you)");
    }
    return item;
  }
}
