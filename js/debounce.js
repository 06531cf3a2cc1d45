// @ts-check
// Debounces asynchronous work: it starts after a pause, and each call cancels the one before.

/**
 * @template T
 * @param {number} delay milliseconds without another call before the work starts
 * @param {(argument: T, signal: AbortSignal) => Promise<void>} work must stop when the signal
 *   aborts; what it throws after that is dropped
 */
export function debounce(delay, work) {
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
