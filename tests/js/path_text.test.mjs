import assert from "node:assert/strict";
import test from "node:test";

import { shortenPaths, shortenSaved, shortPath } from "../../js/path_text.js";

for (const [path, expected] of [
  ["v1-5.safetensors", "v1-5.safetensors"],
  ["SD/2.1/v2-1_768-ema-pruned.safetensors", "SD/2.1/v2-1_768-ema-pruned.safetensors"],
  ["Stable Diffusion/2.1/ema/v2-1_768-ema-pruned.safetensors", "…/ema/v2-1_768-ema-pruned.safetensors"],
  ["C:\\models\\checkpoints\\stable\\v2-1_768.safetensors", "…/stable/v2-1_768.safetensors"],
  [`${"long".repeat(12)}/x`, "…/x"],
]) {
  test(`${path} is shown as ${expected}`, () => assert.equal(shortPath(path), expected));
}

test("long paths in a text are shortened, and nothing else", () => {
  const folder = "/home/someone/ComfyUI/models/text_encoders/deep/down";
  assert.equal(
    shortenPaths(`'gone/x.ckpt' is in none of the folders (${folder}, /b). A 1/2: no.`),
    "'gone/x.ckpt' is in none of the folders (…/ComfyUI/models/text_encoders/deep/down, /b). A 1/2: no.",
  );
});

for (const [name, path, file, expected] of [
  ["below a folder", "/a/b/out/conditioning/sd2_00002_.safetensors", ["conditioning", "sd2_00002_.safetensors"],
    "saved output/conditioning/sd2_00002_.safetensors: [1, 77, 1024], [1, 77, 1024]"],
  ["on Windows, not below one", "C:\\my output\\x.safetensors", ["", "x.safetensors"],
    "saved output/x.safetensors: [1, 77, 1024], [1, 77, 1024]"],
]) {
  test(`what was saved is shown as a user finds it: ${name}`, () => {
    const [subfolder, filename] = file;
    const line = `saved ${path}: [1, 77, 1024], [1, 77, 1024]`;
    assert.equal(shortenSaved(line, { filename, subfolder, type: "output" }), expected);
  });
}
