// Colours for YAML and JSON, line by line. A guide for the eye: what is right is the server's to say.

import { el } from "./dom.js";

const COMMENT = String.raw`(#.*$)`;
const KEY = String.raw`("(?:[^"\\]|\\.)*"(?=\s*:)|[A-Za-z_][\w.-]*(?=\s*:(?:\s|$)))`;
const STRING = String.raw`("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')`;
const VALUE = String.raw`(?<![\w./-])(-?\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?|true|false|null)(?![\w.-])`;
const TOKEN = new RegExp([COMMENT, KEY, STRING, VALUE].join("|"), "giu");
const LONGEST = 2000; // characters of a line that is coloured: the time grows with their square
const CLASSES = [null, "comment", "key", "string", "value"];

/** Nodes of one line; a comment begins at its start or after a space, as YAML has it. */
export function highlighted(line) {
  if (line.length > LONGEST) return [line];
  const parts = [];
  let from = 0;
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(line); match; match = TOKEN.exec(line)) {
    const group = CLASSES.findIndex((name, i) => name && match[i] !== undefined);
    if (CLASSES[group] === "comment" && match.index > 0 && !/\s/u.test(line[match.index - 1])) {
      TOKEN.lastIndex = match.index + 1;
      continue;
    }
    parts.push(line.slice(from, match.index), el("span", { class: `is-${CLASSES[group]}` }, match[0]));
    from = match.index + match[0].length;
  }
  parts.push(line.slice(from));
  return parts;
}
