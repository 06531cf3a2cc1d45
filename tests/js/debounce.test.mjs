import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { debounce } from "../../js/debounce.js";

/** Runs the callbacks of settled promises. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("only the last of several quick calls starts the work", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const done = [];
  const { schedule } = debounce(100, async (value) => void done.push(value));
  schedule("a");
  mock.timers.tick(60);
  schedule("b");
  mock.timers.tick(60);
  assert.deepEqual(done, []);
  mock.timers.tick(60);
  await settle();
  assert.deepEqual(done, ["b"]);
  mock.timers.reset();
});

test("a new call aborts running work, and drops what it throws", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const signals = [];
  const { schedule } = debounce(10, (_, signal) => {
    signals.push(signal);
    return new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  });
  schedule("a");
  mock.timers.tick(10);
  schedule("b");
  await settle();
  assert.equal(signals[0].aborted, true);
  mock.timers.reset();
});

test("nothing happens after cancel", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let count = 0;
  const { schedule, cancel } = debounce(10, async () => void (count += 1));
  schedule("a");
  cancel();
  mock.timers.tick(50);
  await settle();
  assert.equal(count, 0);
  mock.timers.reset();
});
