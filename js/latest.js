// @ts-check
// Work that follows typing: it begins after a pause, and only the latest counts.

/**
 * @template T
 * @param {number} delay milliseconds without another call before the work begins
 * @param {(argument: T, signal: AbortSignal) => Promise<void>} work stops when the signal does;
 *   what it throws after that is of no interest to anybody
 */
export function latest(delay, work) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {AbortController | undefined} */
  let running;

  function cancel() {
    clearTimeout(timer);
    running?.abort();
    running = undefined;
  }

  /** @param {T} argument */
  function schedule(argument) {
    cancel();
    timer = setTimeout(async () => {
      const controller = new AbortController();
      running = controller;
      try {
        await work(argument, controller.signal);
      } catch (error) {
        if (!controller.signal.aborted) throw error;
      } finally {
        if (running === controller) running = undefined;
      }
    }, delay);
  }

  return { schedule, cancel };
}
