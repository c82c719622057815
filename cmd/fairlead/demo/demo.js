// The demo page: Ann and Bob, each with a client of their own, in one conversation; with ?user=… somebody else alone.
import { confirm } from "./confirm.js";
import { flood } from "./flood.js";
import { FrameLog } from "./frames.js";
import { Pane } from "./pane.js";
import { second } from "./second.js";
import { stack } from "./stack.js";
import { task } from "./task.js";
import { ask, beside, call, copyButtons, inbox, kick, killable, resume, serve } from "./widgets.js";

const log = new FrameLog(document.querySelector("#frames"));
const panes = document.querySelector(".panes");
const query = new URLSearchParams(location.search);
const guest = query.get("user");

beside(stack);
copyButtons();
if (guest) {
  const name = guest[0].toUpperCase() + guest.slice(1);
  document.title = `${name} · Fairlead demo`;
  document.body.classList.add("guest");
  const pane = new Pane(guest, name, undefined, log);
  confirm(pane);
  panes.append(pane.element);
} else {
  const ws2 = query.get("ws2") ?? undefined;
  const own = second && !ws2; // Bob has a gateway of his own, to kill
  const ann = new Pane("ann", "Ann", undefined, log);
  const bob = () => {
    const pane = new Pane("bob", "Bob", own ? "/demo/ws" : ws2, log);
    confirm(pane);
    killable(pane, own);
    pane.again = () => pane.element.replaceWith(bob());
    return pane.element;
  };
  panes.append(ann.element, bob());
  call(ann.client);
  inbox(ann.client);
  serve(ann.client);
  ask(ann.client);
  kick(ann.client);
  flood(ann.client);
  task(ann.client);
  resume(ann.client, own ? 1 : stack ? 2 : 0);
}
