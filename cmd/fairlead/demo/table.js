// A table with three seats: a group, which takes as many as its rule says, whichever gateways they come from.
import { face } from "./here.js";

/** As many as `maxMembers` in the rules of `fairlead dev`. */
const seats = 3;

export class Table {
  #pane;
  #here;
  #group;
  #seated = false; // wants its seat
  #inside = false; // has it on the connection of now
  #members = []; // users of the group, known to those who are in it
  #asked = 0;
  #busy = false;
  #full = false;

  /** @param pane whose seat it is @param here the room that it stands in */
  constructor(pane, here) {
    this.#pane = pane;
    this.#here = here;
    this.#group = pane.client.group("table:1");
    here.changed = () => this.#show();

    const group = this.#group;
    group.on("$joined", () => this.#read());
    group.on("$left", (left) => (pane.client.conn in left ? this.#stand("Your seat is gone.") : this.#read()));
    group.on("$rejoined", () => {
      this.#sit();
      this.#read();
    });
    group.on("$lost", (error) => this.#tell(`Your seat is asked for again: ${error.message}.`));
    group.on("$closed", () => this.#stand("The table was taken away."));
    group.on("knock", ({ from }) => {
      this.#tell(`${from === undefined ? "A worker" : here.name(from)} knocks.`);
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
        pane.part("seats").animate({ transform: ["none", "translateX(-3px)", "translateX(3px)", "none"] }, { duration: 120, iterations: 3 });
      }
    });
    pane.client.on("state", ({ state }) => {
      if (state !== "open") this.#inside = false;
      this.#show();
    });
    pane.part("seat").addEventListener("click", () => this.#alone(() => (this.#seated ? this.#leave() : this.#take())));
    pane.part("knock").addEventListener("click", () => group.publish("knock").catch((error) => this.#tell(error.message)));
    this.#show();
  }

  async #alone(fn) {
    if (this.#busy) return;
    this.#busy = true;
    await fn();
    this.#busy = false;
  }

  async #take() {
    try {
      await this.#group.join({ data: { user: this.#pane.client.user } });
    } catch (error) {
      this.#full = error.code === "RESOURCE_EXHAUSTED";
      this.#tell(this.#full ? "The table is full. You see here when a seat is free." : error.message);
      return;
    }
    this.#sit();
    // A group is known to its members only. Those who stand see in the room who says that it sits.
    this.#here.set({ seated: true });
    await this.#read();
  }

  #sit() {
    this.#seated = this.#inside = true;
    this.#tell("");
  }

  async #leave() {
    await this.#group.leave().catch(() => {}); // without a connection the seat is free already
    this.#stand("");
  }

  #stand(why) {
    this.#seated = this.#inside = false;
    this.#here.set({ seated: undefined });
    this.#tell(why);
    this.#show();
  }

  /** Reads who sits, after every change: of several answers the one to the last question counts. */
  async #read() {
    const asked = ++this.#asked;
    try {
      const { members } = await this.#group.members();
      if (asked !== this.#asked) return;
      this.#members = Object.values(members).map((m) => String(m.data?.user ?? "?").slice(0, 128)).sort();
    } catch {
      return; // no seat now: another change comes
    }
    this.#show();
  }

  #show() {
    const { all } = this.#here;
    const taken = this.#seated ? this.#members : Object.keys(all).filter((user) => all[user].data?.seated === true).sort().slice(0, seats);
    const free = seats - taken.length;
    if (this.#full && free > 0 && !this.#seated) this.#tell("A seat is free.");
    if (free > 0) this.#full = false;

    const list = this.#pane.part("seats"), now = [...taken.slice(0, seats), ...Array(Math.max(free, 0)).fill(undefined)];
    for (const [i, user] of now.entries()) {
      const seat = list.children[i] ?? list.appendChild(document.createElement("li"));
      const name = user === undefined ? undefined : this.#here.name(user);
      if (seat.dataset.user === user && seat.title === (name ?? "free") && seat.className) continue;
      if (user === undefined) delete seat.dataset.user;
      else seat.dataset.user = user;
      seat.className = user === undefined ? "free" : "taken";
      seat.title = name ?? "free";
      const label = document.createElement("span");
      label.className = "aside";
      label.textContent = name ?? "free";
      seat.replaceChildren(...(user === undefined ? [] : [face(user, name)]), label);
    }
    this.#pane.part("seat").textContent = this.#seated ? "Stand up" : "Take a seat";
    this.#pane.part("knock").disabled = !this.#inside;
  }

  #tell(text) {
    this.#pane.part("table-says").textContent = text;
  }
}
