import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";

import { ENGLISH, NAMESPACE, translate } from "../../js/messages.js";

const scripts = new URL("../../js/", import.meta.url);
const locales = new URL("../../locales/", import.meta.url);

/** As GET /i18n returns our texts. */
const translations = Object.fromEntries(
  readdirSync(locales).map((locale) => [
    locale,
    JSON.parse(readFileSync(new URL(`${locale}/main.json`, locales), "utf8")),
  ]),
);
const forms = (text) => (typeof text === "string" ? [text] : Object.values(text));
const placeholders = (text) => [...new Set(text.match(/\{\w+\}/g))].sort();
const categories = (locale) => {
  const rules = new Intl.PluralRules(locale);
  return [...new Set(Array.from({ length: 200 }, (_, n) => rules.select(n)))].sort();
};

for (const locale of Object.keys(translations)) {
  const texts = translations[locale][NAMESPACE];

  test(`${locale} has a text for every key, and no other`, () => {
    assert.deepEqual(Object.keys(texts), Object.keys(ENGLISH));
  });

  test(`${locale} has the placeholders of English`, () => {
    for (const [key, text] of Object.entries(ENGLISH)) {
      const expected = placeholders(forms(text).join());
      for (const form of forms(texts[key])) assert.deepEqual(placeholders(form), expected, key);
    }
  });

  test(`${locale} has the plural forms of its language`, () => {
    for (const [key, text] of Object.entries(ENGLISH)) {
      if (typeof text === "string") assert.equal(typeof texts[key], "string", key);
      else assert.deepEqual(Object.keys(texts[key]).sort(), categories(locale), key);
    }
  });

  test(`${locale} is translated`, () => {
    for (const [key, text] of Object.entries(ENGLISH)) {
      if (forms(text)[0].split(" ").length > 2) assert.notDeepEqual(texts[key], text, key);
    }
  });
}

test("every key is used by some script", () => {
  const text = readdirSync(scripts)
    .filter((name) => name.endsWith(".js") && name !== "messages.js")
    .map((name) => readFileSync(new URL(name, scripts), "utf8"))
    .join("\n");
  assert.deepEqual(Object.keys(ENGLISH).filter((key) => !text.includes(`"${key}"`)), []);
});

for (const [locale, n, expected] of [
  ["en", 1, "1 token"],
  ["en", 2, "2 tokens"],
  ["ru", 1, "1 токен"],
  ["ru", 3, "3 токена"],
  ["ru", 11, "11 токенов"],
  ["ja", 1, "1 トークン"],
]) {
  test(`${n} has its plural form in ${locale}`, () => {
    assert.equal(translate(translations, locale, "tokens", { n }), expected);
  });
}

test("the server's translation is used, with its values", () => {
  const served = { xx: { [NAMESPACE]: { chunkBorder: "-{number}-" } } };
  assert.equal(translate(served, "xx", "chunkBorder", { number: 2 }), "-2-");
});

test("a text without a translation is English, in English plurals", () => {
  assert.equal(translate({}, "ja", "nodeFailed"), "This node failed");
  assert.equal(translate({ ja: {} }, "ja", "tokens", { n: 1 }), "1 token");
});
