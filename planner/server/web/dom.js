// Builders of elements. Text always enters as text nodes, never as markup: names in a scenario are anyone's.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {Object} options attributes by name; besides: `class`, `on` (event -> listener) and `css` (property -> value,
 *   set through the object model, which the content security policy allows where `style="..."` is refused).
 *   `true` writes a bare attribute; `false`, null and undefined none.
 * @param {...any} children nodes, text, numbers, or lists of them; null, undefined and false are left out.
 */
export function el(tag, options = {}, ...children) {
  return built(document.createElement(tag), options, children);
}

/** Make an SVG element; as `el`. */
export function svg(tag, options = {}, ...children) {
  return built(document.createElementNS(SVG, tag), options, children);
}

/** Replace everything inside a node. */
export function fill(node, ...children) {
  node.replaceChildren(...nodes(children));
  return node;
}

function built(node, { on = {}, css = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  for (const [property, value] of Object.entries(css)) node.style.setProperty(property, String(value));
  node.append(...nodes(children));
  return node;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/**
 * A table that scrolls sideways inside its own box where it does not fit.
 *
 * @param {string} caption for those who cannot see the heading above it.
 * @param {Array} columns texts, or {name, number: true} for columns of figures.
 * @param {Array} rows lists of cells; the first cell of each is its heading.
 */
export function table(caption, columns, rows) {
  const named = columns.map((column) => (typeof column === "string" ? { name: column } : column));
  return el(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
    el(
      "table",
      {},
      el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, named.map((c) => el("th", { scope: "col", class: c.number && "figure" }, c.name)))),
      el(
        "tbody",
        {},
        rows.map((cells) =>
          el(
            "tr",
            {},
            cells.map((cell, i) =>
              i === 0
                ? el("th", { scope: "row", class: named[i].number && "figure" }, cell)
                : el("td", { class: named[i].number && "figure" }, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

/** A list of facts: pairs of a term and what it is; pairs without a value are left out. */
export function facts(pairs) {
  return el(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
  );
}

/** A titled part of a page. */
export function card(title, { id, note, class: extra = "" } = {}, ...children) {
  return el(
    "section",
    { class: `card ${extra}`.trim(), "aria-labelledby": id },
    el("h2", { id }, title),
    note && el("p", { class: "note" }, note),
    children,
  );
}

/** Say something to those who listen to the page instead of seeing it. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}
