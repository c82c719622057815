// A question to the user of a pane, answered by a click.

/** Has the client of a pane answer `confirm`; of several questions at once each waits for the one before. */
export function confirm(pane) {
  const box = pane.part("confirm"), text = pane.part("confirm-question");
  let last = Promise.resolve();
  pane.client.serve("confirm", (q) => {
    const answered = last.then(() => new Promise((resolve) => {
      const from = typeof q?.from === "string" ? `${q.from.slice(0, 40)} asks: ` : "";
      text.textContent = from + String(q?.question ?? "Yes or no?").slice(0, 200);
      box.hidden = false;
      const end = (answer) => {
        clearTimeout(timer);
        box.hidden = true;
        box.removeEventListener("click", click);
        resolve({ answer });
      };
      const click = ({ target }) => target.dataset.confirm && end(target.dataset.confirm);
      const timer = setTimeout(end, 15000, "nobody clicked");
      box.addEventListener("click", click);
    }));
    last = answered;
    return answered;
  });
}
