// A plain text area with line numbers, colours, and errors beside their lines. Tab leaves it, as everywhere else.

import { el, fill } from "./dom.js";
import { highlighted } from "./highlight.js";

const MOST_COLOURED = 100_000; // characters; beyond that colours would slow typing down

export class Editor {
  /**
   * @param {{label: string, describedBy: string, onChange: function(string)}} options `describedBy` is the id of the
   *   list of errors, which is the caller's.
   */
  constructor({ label, describedBy, onChange }) {
    this.onChange = onChange;
    this.errors = new Map();
    this.gutter = el("div", { class: "gutter", "aria-hidden": "true" });
    this.ink = el("div", { class: "ink", "aria-hidden": "true" });
    this.area = el("textarea", {
      id: "scenario",
      "aria-label": label,
      "aria-describedby": describedBy,
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      autocorrect: "off",
      wrap: "off",
      on: {
        input: () => this.changed(),
        scroll: () => this.align(),
        keydown: (event) => this.key(event),
      },
    });
    this.node = el("div", { class: "editor" }, this.gutter, el("div", { class: "sheet" }, this.ink, this.area));
    this.draw();
  }

  get text() {
    return this.area.value;
  }

  set text(text) {
    this.area.value = text;
    this.area.scrollTop = 0;
    this.area.setSelectionRange(0, 0);
    this.changed();
  }

  /** Mark lines. @param {Array<{line: number|null, detail: string, field: string|null}>} errors */
  mark(errors) {
    this.errors = new Map();
    for (const error of errors) {
      if (error.line) this.errors.set(error.line, [...(this.errors.get(error.line) || []), error]);
    }
    this.area.setAttribute("aria-invalid", String(errors.length > 0));
    this.draw();
  }

  /** Put the caret on a line and show it. */
  goTo(line) {
    const lines = this.text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    this.area.focus();
    this.area.setSelectionRange(start, start + (lines[line - 1] || "").length);
    const height = parseFloat(getComputedStyle(this.area).lineHeight);
    this.area.scrollTop = Math.max(0, (line - 1) * height - this.area.clientHeight / 2);
  }

  changed() {
    // An edit may have moved every line: marks of the text as it was would lie.
    this.errors = new Map();
    this.draw();
    this.onChange(this.text);
  }

  draw() {
    const lines = this.text.split("\n");
    const coloured = this.text.length <= MOST_COLOURED;
    fill(
      this.gutter,
      lines.map((_, i) => {
        const errors = this.errors.get(i + 1);
        return el("div", errors ? { class: "wrong", title: errors.map(said).join("\n") } : {}, i + 1);
      }),
    );
    fill(
      this.ink,
      lines.map((line, i) => {
        const errors = this.errors.get(i + 1);
        return el(
          "div",
          errors ? { class: "wrong" } : {},
          coloured ? highlighted(line) : line,
          errors && el("span", { class: "beside" }, errors.map((error) => error.detail).join("; ")),
          "\u200b", // an empty line keeps its height
        );
      }),
    );
    this.align();
  }

  align() {
    this.gutter.style.setProperty("translate", `0 ${-this.area.scrollTop}px`);
    this.ink.style.setProperty("translate", `${-this.area.scrollLeft}px ${-this.area.scrollTop}px`);
  }

  key(event) {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    // The new line starts where the last one did; one step deeper after a key without a value.
    const before = this.text.slice(0, this.area.selectionStart);
    const line = before.slice(before.lastIndexOf("\n") + 1);
    const indent = /^\s*/u.exec(line)[0] + (/^[^#]*:\s*$/u.test(line) ? "  " : "");
    if (!indent) return;
    event.preventDefault();
    // The old command, because it alone keeps the browser's own undo; not every browser has it.
    if (!document.execCommand("insertText", false, `\n${indent}`)) {
      this.area.setRangeText(`\n${indent}`, this.area.selectionStart, this.area.selectionEnd, "end");
      this.changed();
    }
  }
}

function said(error) {
  return error.field ? `${error.field}: ${error.detail}` : error.detail;
}
