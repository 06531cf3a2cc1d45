import assert from "node:assert/strict";
import test from "node:test";

import { validationLines } from "../../js/run_notice.js";

for (const [name, error, line] of [
  ["ours", { type: "custom_validation_failed", details: "clip_name - gone: not found." }, "gone: not found."],
  ["ComfyUI's", { type: "value_not_in_list", message: "Not in list", details: "layer: x" }, "Not in list: layer: x"],
  ["one without details", { type: "other", message: "Failed", details: "" }, "Failed"],
]) {
  test(`a validation error is a line: ${name}`, () => {
    assert.deepEqual(validationLines({ errors: [error] }), [line]);
  });
}

test("a node without errors has no lines", () => assert.deepEqual(validationLines(undefined), []));
