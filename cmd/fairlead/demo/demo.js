// The demo page: Ann and Bob, each with a client of their own, in one conversation; with ?user=… somebody else alone.
import { FrameLog } from "./frames.js";
import { Pane } from "./pane.js";
import { second } from "./second.js";
import { call, copyButtons, inbox, resume, serve } from "./widgets.js";

const log = new FrameLog(document.querySelector("#frames"));
const panes = document.querySelector(".panes");
const query = new URLSearchParams(location.search);
const guest = query.get("user");

copyButtons();
if (guest) {
  const name = guest[0].toUpperCase() + guest.slice(1);
  document.title = `${name} · Fairlead demo`;
  document.body.classList.add("guest");
  panes.append(new Pane(guest, name, undefined, log).element);
} else {
  const ws2 = query.get("ws2") ?? undefined;
  const own = second && !ws2; // Bob has a gateway of his own, to kill
  const ann = new Pane("ann", "Ann", undefined, log);
  const bob = new Pane("bob", "Bob", own ? "/demo/ws" : ws2, log);
  panes.append(ann.element, bob.element);
  call(ann.client);
  inbox(ann.client);
  serve(ann.client);
  resume(ann.client, bob, own);
}
