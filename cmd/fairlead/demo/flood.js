// A flood of messages on a topic with a limit, and what the limiter says to it.
import { retrying } from "/fairlead/retry.js";

/** Six times what a full bucket of the limit holds, by the rules of `fairlead dev`. */
const messages = 60;

const part = (role) => document.querySelector(`[data-role=${role}]`);

/** Has Ann publish many messages at once, then one more as soon as the limiter lets her. */
export function flood(client) {
  const button = part("flood"), result = part("flood-result"), dots = part("flood-dots"), room = client.topic("demo.limited");
  const counts = { sent: 0, passed: 0, refused: 0 };

  function show() {
    for (const [name, n] of Object.entries(counts)) part("flood-" + name).textContent = n;
  }

  function say(state, ...what) {
    result.dataset.state = state;
    result.replaceChildren(...what);
    result.classList.toggle("good", state === "open");
  }

  async function publish(n) {
    const dot = dots.children[n];
    counts.sent++;
    try {
      await room.publish("message", { n });
      counts.passed++;
      dot.className = "passed";
    } catch (error) {
      if (error.code !== "RESOURCE_EXHAUSTED") throw error;
      counts.refused++;
      dot.className = "refused";
      dot.title = `${error.message}: again in ${error.retryAfter} ms`;
    }
    show();
  }

  /** The last message waits as it is told; meanwhile the page counts down. */
  async function once(began) {
    let timer;
    try {
      await retrying((attempt) => {
        clearInterval(timer);
        if (attempt > 0) say("asking", "Asking again…");
        return room.publish("message", { n: messages });
      }, {
        timeout: 30000,
        onWait({ code, message, retryAfter }, ms) {
          const end = performance.now() + ms, tag = document.createElement("span");
          tag.className = "code";
          tag.textContent = code;
          const left = () => say("waiting", tag, `${message}: retryAfterMs ${retryAfter}, asking again in ${Math.max(0, Math.ceil(end - performance.now()))} ms`);
          left();
          timer = setInterval(left, 20);
        },
      });
    } finally {
      clearInterval(timer);
    }
    say("open", `May send again: one more passed ${((performance.now() - began) / 1000).toFixed(1)} s after the flood.`);
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    Object.assign(counts, { sent: 0, passed: 0, refused: 0 });
    dots.replaceChildren(...Array.from({ length: messages }, () => document.createElement("li")));
    say("flooding", "Flooding…");
    const began = performance.now();
    try {
      await client.ready();
      await Promise.all(Array.from({ length: messages }, (_, n) => publish(n)));
      await once(began);
    } catch (error) {
      say("failed", `${error.code ?? "error"}: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  });
}
