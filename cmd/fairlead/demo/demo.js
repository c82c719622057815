// The demo page: Ann and Bob, each with a client of their own, in one conversation.
import { FrameLog } from "./frames.js";
import { Pane } from "./pane.js";
import { second } from "./second.js";
import { call, copyButtons, inbox, resume, serve } from "./widgets.js";

const log = new FrameLog(document.querySelector("#frames"));
const ws2 = new URLSearchParams(location.search).get("ws2") ?? undefined;
const own = second && !ws2; // Bob has a gateway of his own, to kill

const ann = new Pane("ann", "Ann", undefined, log);
const bob = new Pane("bob", "Bob", own ? "/demo/ws" : ws2, log);
document.querySelector(".panes").append(ann.element, bob.element);

copyButtons();
call(ann.client);
inbox(ann.client);
serve(ann.client);
resume(ann.client, bob, own);
