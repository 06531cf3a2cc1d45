// @ts-check
// Shortens file paths to what a panel has room for. No DOM here.

const MAX_PATH = 40;

/** The end of a path, from a whole part on, if it is long. @param {string} path */
export function shortPath(path) {
  if (path.length <= MAX_PATH) return path;
  const parts = path.split(/[\\/]/);
  let short = parts.pop() ?? "";
  while (parts.length && short.length + (parts.at(-1)?.length ?? 0) + 3 <= MAX_PATH) {
    short = `${parts.pop()}/${short}`;
  }
  return `…/${short}`;
}

/** A text with its long paths shortened. @param {string} text */
export function shortenPaths(text) {
  return text.replace(/[^\s'",()]*[\\/][^\s'",():]+/g, shortPath);
}

/**
 * A line "saved PATH: SHAPES" with the folder that ComfyUI calls "output" in place of its path.
 * @param {string} line
 * @param {{filename: string, subfolder: string, type: string}} file
 */
export function shortenSaved(line, { filename, subfolder, type }) {
  const shown = [type, subfolder, filename].filter(Boolean).join("/");
  return line.replace(/^(saved ).*(: \[)/, (_whole, before, after) => before + shown + after);
}
