/**
 * A channel to the worker: what is sent is applied once and in the order of the sends. `from` is where it goes on:
 * the `seq` of an earlier answer.
 */
export async function openChannel(fl, channel) {
  const ask = (seq, data) => fl.call("channel.send", { channel, seq, data });
  const { seq: from, state } = await ask(0); // a page that was loaded again goes on where it was
  let last = from, before = Promise.resolve();

  async function deliver(seq, data, before) {
    for (let waited = false; ;) {
      try {
        return await ask(seq, data);
      } catch (error) {
        if (error.message === "SEQUENCE_GAP" && !waited) {
          await before; // overtook it; where that one fails this one does
          waited = true;
        } else if (error.code === "UNAVAILABLE" || error.code === "DEADLINE_EXCEEDED") {
          await fl.ready(); // it may have been applied: the same seq again is harmless
          await new Promise((resolve) => setTimeout(resolve, error.retryAfter ?? 100));
        } else throw error;
      }
    }
  }

  return {
    state,
    /** Resolves when the worker has applied it. Sends need not wait for each other. */
    send(data) {
      return (before = deliver(++last, data, before));
    },
  };
}
