// A task, and a worker that is killed while it works on it.

const parts = ["fetch", "decode", "resize", "encode", "upload"];

const part = (role) => document.querySelector(`[data-role=${role}]`);

/** Asks for a task through the demo's worker and shows what becomes of it. */
export function task(client) {
  const begin = part("task"), kill = part("task-kill"), bar = part("task-bar"), result = part("task-result"), steps = part("task-steps");
  const ends = ["committed", "failed", "cancelled", "dead"];
  let now, leave = [];

  function say(state, text) {
    result.dataset.state = state;
    result.textContent = text;
    result.classList.toggle("good", state === "committed");
  }

  /** `by` has the process of each part that is done, and behind them of the one that is being done. */
  function draw(by, done) {
    steps.replaceChildren(...parts.map((name, i) => {
      const step = document.createElement("li");
      step.textContent = i < by.length ? `${name} · ${by[i]}` : name;
      step.className = i < by.length - (done ? 0 : 1) ? "done" : i < by.length ? "now" : "";
      return step;
    }));
  }

  /** Shows a task as its topic tells it, or as it was read: that may be older than what was told. */
  function show(t, read) {
    if (now && (t.id !== now.id || ends.includes(now.state) || t.attempt < now.attempt || read && t.attempt === now.attempt && t.state === "running")) return;
    const moved = now?.attempt > 0 && t.attempt > now.attempt;
    now = { ...t, progress: t.progress ?? now?.progress };
    part("task-attempt").textContent = t.attempt;
    if (now.progress) {
      bar.value = now.progress.done / now.progress.total;
      draw(now.progress.by.map(Number), false);
    }
    if (t.state === "committed") {
      bar.value = 1;
      draw(t.result?.by?.map(Number) ?? [], true);
      const workers = new Set(t.result?.by).size;
      say(t.state, `Committed once, after ${t.attempt} attempt${t.attempt > 1 ? "s" : ""}, by ${workers} worker${workers > 1 ? "s" : ""}: no part was done twice.`);
    } else if (ends.includes(t.state)) say(t.state, `${t.state}: ${t.error?.message ?? ""}`);
    else if (moved || result.dataset.state !== "killed") {
      const running = t.attempt > 1 ? `Another worker has it, and goes on after the last part that was done.` : "A worker has it.";
      say(t.state, t.state === "running" ? running : "It waits for a worker.");
    }
    begin.disabled = !ends.includes(t.state);
    kill.disabled = !begin.disabled;
  }

  begin.addEventListener("click", async () => {
    begin.disabled = true;
    for (const off of leave) off();
    now = undefined;
    bar.value = 0;
    draw([], false);
    say("asking", "Asking for it…");
    try {
      const { id } = await client.call("demo.task", {}, { timeout: 20000 });
      now = { id, attempt: 0 };
      const topic = client.topic("task." + id);
      // Whenever it is subscribed to, what was told before is read.
      const read = () => client.call("demo.task.get", { id }).then((t) => show(t, true), () => {});
      leave = [topic.on("*", (m) => m.data && show(m.data, false)), topic.on("$subscribed", read)];
    } catch (error) {
      say("off", `${error.code ?? "error"}: ${error.message}`);
      begin.disabled = false;
    }
  });

  kill.addEventListener("click", async () => {
    kill.disabled = true;
    say("killed", "Killed. Nobody is told: in 2 seconds it is missed.");
    const { ok, status } = await fetch("/demo/kill-worker", { method: "POST" });
    if (!ok) say("kept", status === 403 ? "Only on the machine that runs fairlead dev." : "It can’t be killed from here.");
    kill.disabled = begin.disabled === false;
  });

  draw([], false);
  client.call("demo.tasks").then(({ off }) => {
    begin.disabled = Boolean(off);
    if (off) say("off", `Tasks are ${off}`);
  }, () => {});
}
