/**
 * Submits a job and resolves with what the worker says of it: `{ id, queueDepth }`, and `dropped` where it was not taken.
 * Where the queue is full it tries again when the worker says so, under the same id.
 */
export async function submit(fl, job, { signal } = {}) {
  const id = job.id ?? crypto.randomUUID();
  for (;;) {
    try {
      return await fl.call("jobs.submit", { ...job, id }, { signal });
    } catch (error) {
      if (error.code !== "RESOURCE_EXHAUSTED" || error.retryAfter === null) throw error;
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, error.retryAfter * (1 + Math.random())); // not all at once
        signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
      });
    }
  }
}

/** Hears what became of jobs that were taken: `started`, `done`, or `dropped` for a newer one. */
export const outcomes = (fl, fn) =>
  fl.inbox(({ event, data }) => ["started", "done", "dropped"].includes(event) && fn(event, data));
