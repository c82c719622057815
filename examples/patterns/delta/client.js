/**
 * Keeps a copy of a document: `show(state, rev)` after every change. Only what changed is sent; the whole document is
 * read at the beginning and after a gap. Returns a function that ends it.
 */
export function follow(fl, doc, show) {
  const topic = fl.topic("doc." + doc), ahead = new Map(); // revisions that came while the document is read
  let rev = -1, state, reading = false, ended = false;

  async function read() {
    if (reading || ended) return;
    reading = true;
    try {
      ({ rev, state } = await fl.call("doc.edit", { doc }));
    } catch (error) {
      if (!ended) setTimeout(read, error.retryAfter ?? 1000);
      return;
    } finally {
      reading = false;
    }
    show(state, rev);
    for (const [, delta] of [...ahead].sort(([a], [b]) => a - b)) apply(delta);
    ahead.clear();
  }

  function apply(delta) {
    if (!reading && rev >= 0 && delta.rev <= rev) return; // is in what was read
    if (!reading && delta.rev === rev + 1) {
      state = { ...state, ...delta.set };
      show(state, ++rev);
      return;
    }
    if (ahead.size < 1024) ahead.set(delta.rev, delta);
    read(); // REVISION_GAP
  }

  const offs = [
    topic.on("delta", ({ data }) => apply(data)),
    topic.on("$truncated", read), // away for longer than the topic keeps
    topic.on("$subscribed", ({ recovered }) => recovered || read()),
  ];
  return () => {
    ended = true;
    offs.forEach((off) => off());
  };
}
