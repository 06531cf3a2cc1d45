import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";

import { keysOf, LANGUAGES, translate } from "../../js/messages.js";

const scripts = new URL("../../js/", import.meta.url);

for (const language of LANGUAGES) {
  test(`${language} has every message, with the same blanks`, () => {
    assert.deepEqual(keysOf(language), keysOf("en"));
    const blanks = (locale, key) => translate(locale, key).match(/\{\w+\}/g)?.sort() ?? [];
    for (const key of keysOf("en")) {
      assert.deepEqual(blanks(language, key), blanks("en", key), key);
    }
  });
}

test("every message is used by some script", () => {
  const files = readdirSync(scripts).filter((name) => name.endsWith(".js"));
  const text = files
    .filter((name) => name !== "messages.js")
    .map((name) => readFileSync(new URL(name, scripts), "utf8"))
    .join("\n");
  assert.deepEqual(keysOf("en").filter((key) => !text.includes(`"${key}"`)), []);
});

test("a variant of a language falls back to it, an unknown one to English", () => {
  assert.equal(translate("zh-TW", "failed"), translate("zh", "failed"));
  assert.equal(translate("xx", "failed"), "This node failed");
});

test("an unknown key is a fault of ours", () => {
  assert.throws(() => translate("en", "nonsense"), /nonsense/);
});
