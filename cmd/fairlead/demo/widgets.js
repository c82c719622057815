// The cards: a call, direct messages, a question from a worker.

const part = (role) => document.querySelector(`[data-role=${role}]`);

/** Replaces what an element shows by text and elements. */
function say(element, good, ...what) {
  element.replaceChildren(...what);
  element.classList.toggle("good", good);
}

function tag(name, text, className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = className;
  return element;
}

/** Says what is different with a stack that the page did not bring along, and what a terminal needs there. */
export function beside(stack) {
  if (!stack) return;
  for (const element of document.querySelectorAll("[data-role=stack]")) element.hidden = false;
  if (!stack.terminal) return;
  document.querySelector("[data-cmd=terminal]").textContent = stack.terminal;
  for (const element of document.querySelectorAll("[data-role=terminal]")) element.hidden = false;
}

/** A button beside every command that copies it. */
export function copyButtons() {
  for (const command of document.querySelectorAll("[data-nats-cmd], [data-cmd]")) {
    const button = tag("button", "Copy");
    button.type = "button";
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command); // no right to the clipboard: at least it is selected
        button.textContent = "Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    command.after(button);
  }
}

/** Calls a worker; where none serves, says how to start one. */
export function call(client) {
  const button = part("call"), result = part("call-result");
  button.addEventListener("click", async () => {
    button.disabled = true;
    const began = performance.now();
    try {
      const reply = await client.call("hello.greet", { name: "Ann" });
      say(result, true, tag("code", JSON.stringify(reply)), ` in ${(performance.now() - began).toFixed(1)} ms`);
    } catch (error) {
      const why = error.code === "UNIMPLEMENTED" ? "No worker serves hello.greet yet. Run the command, then call again." : error.message;
      say(result, false, tag("span", error.code ?? "error", "code"), why);
    } finally {
      button.disabled = false;
    }
  });
}

/** Shows the newest direct message. */
export function inbox(client) {
  client.inbox((m) => say(part("inbox"), true, tag("span", m.event, "code"), tag("code", JSON.stringify(m.data ?? m.text ?? m.base64))));
}

/** Answers a worker's question by a click, or for itself when nobody clicks before the worker stops waiting. */
export function serve(client) {
  const question = part("question"), answers = part("answers"), command = document.querySelector("[data-nats-cmd=request]");
  const nobody = "nobody clicked", patience = 3000;

  client.on("state", () => {
    if (client.conn) command.textContent = `nats req fl.conn.${client.conn} '{"question":"Deploy now?"}' -H Fl-Event:confirm`;
  });

  let asked = () => {}; // ends the question on the page
  client.serve("confirm", async (q) => {
    asked(nobody);
    say(question, true, tag("span", "asked", "code"), String(q?.question ?? "Yes or no?"));
    answers.hidden = false;
    let end;
    const answered = new Promise((resolve) => (end = asked = resolve));
    setTimeout(end, patience, nobody);
    const answer = await answered;
    if (asked === end) {
      answers.hidden = true;
      say(question, true, "Answered ", tag("code", JSON.stringify({ answer })));
    }
    return { answer };
  });
  answers.addEventListener("click", ({ target }) => target.dataset.answer && asked(target.dataset.answer));
}

/** Asks Bob through the demo's worker, as a backend of yours would. */
export function ask(client) {
  const button = part("ask"), result = part("ask-result");
  button.addEventListener("click", async () => {
    button.disabled = true;
    say(result, true, "Bob is asked…");
    try {
      const reply = await client.call("demo.ask", { user: "bob", question: "Deploy now?" }, { timeout: 20000 });
      say(result, true, "Bob answered ", tag("code", JSON.stringify(reply)));
    } catch (error) {
      say(result, false, tag("span", error.code ?? "error", "code"), error.message);
    } finally {
      button.disabled = false;
    }
  });
}

/** Has Bob disconnected by the demo's worker, on every gateway. */
export function kick(client) {
  const button = part("kick"), result = part("kick-result");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { reached } = await client.call("demo.kick", { user: "bob" });
      say(result, true, `Closed: ${Number(reached)} connection${reached === 1 ? "" : "s"} of Bob’s`);
    } catch (error) {
      say(result, false, tag("span", error.code ?? "error", "code"), error.message);
    } finally {
      button.disabled = false;
    }
  });
}

/** Has Ann talk without a pause; `hint` is which of the card's texts applies. */
export function resume(client, hint) {
  const button = part("tick"), room = client.topic("chat.lobby");
  let timer, n = 0;
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", timer === undefined);
    if (timer !== undefined) return (timer = clearInterval(timer));
    timer = setInterval(() => {
      // With a key it is sent again when its connection was lost, and stored once.
      room.publish("message", { text: String(++n) }, { key: `${performance.timeOrigin}.${n}` }).catch(() => {});
    }, 50);
  });
  for (const [i, text] of [...document.querySelectorAll("[data-role=second]")].entries()) text.hidden = i !== hint;
}

/** Kills the gateway of a pane, where it has one of its own. */
export function killable(pane, second) {
  const kill = pane.part("kill");
  kill.hidden = !second;
  kill.addEventListener("click", async () => {
    kill.disabled = true;
    await fetch("/demo/kill", { method: "POST" });
    kill.disabled = false;
  });
}
