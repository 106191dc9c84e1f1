// The pools as they sit on nodes and scale-up domains: a box per domain, a row per node, a cell per GPU. Instances,
// nodes and GPUs count from 0, as in the launch files.

import { el, fill, table } from "./dom.js";
import { count, number, ranges } from "./figures.js";

const LETTERS = { mixed: "M", prefill: "P", decode: "D", attention: "A", ffn: "F" };
const PREFERRED = { mixed: 0, prefill: 1, decode: 2, attention: 3, ffn: 4 }; // colour of the first component of a role
const COLOURS = 8;
const ROW = 8; // GPUs in a row of a node
const FOLDED_FROM = 160; // domains of a pool; from here on runs of equal ones are drawn once
const SIZES = [[256, "large"], [1024, "medium"], [Infinity, "small"]]; // of a cell, by GPUs of the pool
const LABEL_ROOM = 2; // characters that a cell holds
const MOST_UNITS = 12; // with a button of their own

/** Draw a placement, as the server gives it. */
export function placementView(placement) {
  return new Placement(placement).node;
}

class Placement {
  constructor({ pools, components, seats }) {
    this.components = components;
    this.byName = new Map(components.map((component, i) => [component.name, { ...component, colour: null, i }]));
    paint([...this.byName.values()]);
    this.seats = seats;
    this.runs = new Map(); // what is lit together -> its elements
    this.pinned = null;
    this.readout = el("p", { class: "readout", role: "status" }, this.hint);
    this.drawing = el("div", { class: "cluster", "aria-hidden": "true" });
    this.pools = pools;
    this.unfolded = false;
    this.draw();
    this.drawing.addEventListener("pointerover", (event) => this.over(event));
    this.drawing.addEventListener("pointerleave", () => this.light(this.pinned));
    this.node = el("div", { class: "placement" }, this.legend(), this.drawing, this.readout, this.positions());
  }

  get hint() {
    return "Point at a GPU, or choose in the legend, to see what belongs together.";
  }

  legend() {
    const several = new Set(this.components.map((component) => component.service)).size > 1;
    const named = [...this.byName.values()].map((c) =>
      this.choice(`component ${c.name}`, [
        el("span", { class: `swatch ${c.colour}` }, LETTERS[c.role] || "?"),
        `${several ? `${c.service} ` : ""}${c.role}${this.pools.length > 1 ? ` on ${c.pool}` : ""}: `,
        `${number(c.instances)} × ${count(c.instance_gpus, "GPU")}`,
      ]),
    );
    const units = this.units();
    return el(
      "div",
      { class: "choices", role: "group", "aria-label": "Legend; choose to highlight" },
      named,
      el("span", { class: "choice still" }, el("span", { class: "swatch idle" }), "idle GPU"),
      units.length > 1 && units.length <= MOST_UNITS && units.map(([key, words]) => this.choice(key, words)),
      units.length === 1 && el("span", { class: "choice still" }, `one AFD unit: ${units[0][1].split(": ")[1]}`),
      units.length > MOST_UNITS &&
        el(
          "select",
          { "aria-label": "Highlight an AFD unit", on: { change: (event) => this.pin(event.target.value || null) } },
          el("option", { value: "" }, `Highlight one of ${number(units.length)} AFD units …`),
          units.map(([key, words]) => el("option", { value: key }, words)),
        ),
    );
  }

  /** AFD units: what is lit together, and its GPUs in words. */
  units() {
    const found = new Map();
    for (const seat of this.seats) {
      const component = this.byName.get(seat.component);
      if (!component?.unit) continue;
      const key = together(component, seat.instance);
      const gpus = found.get(key) || {};
      gpus[component.role] = (gpus[component.role] || 0) + seat.gpus.length;
      found.set(key, gpus);
    }
    return [...found].map(
      ([key, gpus], i) => [key, `AFD unit ${i}: ${gpus.attention || 0} attention + ${gpus.ffn || 0} FFN GPUs`],
    );
  }

  choice(key, content) {
    return el(
      "button",
      {
        type: "button",
        class: "choice",
        "aria-pressed": "false",
        "data-key": key,
        on: { click: () => this.pin(this.pinned === key ? null : key) },
      },
      content,
    );
  }

  pin(key) {
    this.pinned = key;
    for (const button of this.node.querySelectorAll("button[data-key]")) {
      button.setAttribute("aria-pressed", String(button.dataset.key === key));
    }
    this.light(key);
    if (key === null) this.readout.textContent = this.hint;
    else this.readout.textContent = this.where(key);
  }

  /** In words: the nodes of what is lit together. */
  where(key) {
    const nodes = new Map();
    let gpus = 0;
    for (const seat of this.seats) {
      const component = this.byName.get(seat.component);
      if (`component ${component.name}` !== key && together(component, seat.instance) !== key) continue;
      gpus += seat.gpus.length;
      nodes.set(component.pool, (nodes.get(component.pool) || new Set()).add(seat.node));
    }
    const places = [...nodes].map(([pool, set]) => `${pool}: ${set.size === 1 ? "node" : "nodes"} ${ranges(set)}`);
    return `${count(gpus, "GPU")} on ${places.join("; ")}`;
  }

  light(key) {
    this.drawing.classList.toggle("dimmed", key !== null);
    for (const run of this.lit || []) run.classList.remove("lit");
    this.lit = key === null ? [] : this.runs.get(key) || [];
    for (const run of this.lit) run.classList.add("lit");
  }

  over(event) {
    const run = event.target.closest("[data-says]");
    if (!run) return;
    this.light(run.dataset.key || this.pinned);
    this.readout.textContent = run.dataset.says;
  }

  draw() {
    this.runs.clear();
    fill(this.drawing, this.pools.map((pool) => this.pool(pool)));
  }

  pool(pool) {
    const byNode = new Map();
    let used = 0;
    for (const seat of this.seats) {
      if (this.byName.get(seat.component).pool !== pool.name) continue;
      push(byNode, seat.node, seat);
      used += seat.gpus.length;
    }
    const nodes = Math.ceil(pool.count / pool.gpus_per_node);
    const perDomain = Math.max(1, Math.round(pool.scale_up_domain / pool.gpus_per_node));
    const domains = Array.from({ length: Math.ceil(nodes / perDomain) }, (_, d) => ({
      first: d,
      last: d,
      nodes: Array.from({ length: Math.min(perDomain, nodes - d * perDomain) }, (_, n) => d * perDomain + n),
    }));
    const drawn = domains.length >= FOLDED_FROM && !this.unfolded ? folded(domains, byNode) : domains;
    const size = SIZES.find(([most]) => pool.count <= most)[1];
    const hidden = domains.length - drawn.length;
    return el(
      "section",
      { class: `gpu-pool ${size}` },
      el(
        "h3",
        {},
        pool.name,
        el(
          "span",
          { class: "note" },
          ` ${number(pool.count)} × ${pool.gpu_name}, ${count(nodes, "node")} of ${number(pool.gpus_per_node)}`,
          perDomain > 1 && `, scale-up domains of ${number(pool.scale_up_domain)}`,
          `; ${number(used)} used, ${number(pool.count - used)} idle`,
        ),
      ),
      el("div", { class: "domains" }, drawn.map((domain) => this.domain(domain, perDomain, pool, byNode))),
      hidden > 0 &&
        el(
          "button",
          {
            type: "button",
            tabindex: -1, // the drawing is for the eye; the table says the same
            on: {
              click: () => {
                this.unfolded = true;
                this.draw();
              },
            },
          },
          `Draw all ${count(domains.length, perDomain > 1 ? "domain" : "node")}`,
        ),
    );
  }

  domain({ first, last, nodes }, perDomain, pool, byNode) {
    const many = last > first;
    const noun = perDomain > 1 ? "domain" : "node";
    return el(
      "div",
      { class: `domain${many ? " folded" : ""}${perDomain > 1 ? " rack" : ""}` },
      el(
        "p",
        {},
        many
          ? `${noun}s ${number(first)}–${number(last)}: ${number(last - first + 1)} alike`
          : `${noun} ${number(first)}${perDomain > 1 ? ", by node" : ""}`,
      ),
      nodes.map(
        (node) => el(
          "div",
          { class: "row" },
          perDomain > 1 && el("i", {}, many ? "" : node),
          this.server(node, pool, byNode.get(node) || [], many),
        ),
      ),
    );
  }

  server(node, pool, seats, many) {
    const here = Math.min(pool.gpus_per_node, pool.count - node * pool.gpus_per_node);
    const box = el("div", { class: "node", css: { "--columns": Math.min(here, ROW) } });
    const taken = new Set(seats.flatMap((seat) => seat.gpus));
    for (const seat of seats) this.seat(box, node, seat, many);
    const idle = Array.from({ length: here }, (_, gpu) => gpu).filter((gpu) => !taken.has(gpu));
    for (const run of stretches(idle)) {
      box.append(strip(run, "idle", { "data-says": `node ${node}, ${gpus(run)}: idle` }));
    }
    return box;
  }

  seat(box, node, seat, many) {
    const component = this.byName.get(seat.component);
    const key = together(component, seat.instance);
    const letter = LETTERS[component.role] || "?";
    const label = `${letter}${many ? "" : seat.instance}`;
    const name = component.unit
      ? `${component.name}, AFD unit ${seat.instance}`
      : `${component.name} ${seat.instance} (of ${number(component.instances)})`;
    const more = component.instance_gpus > seat.gpus.length ? `, of ${number(component.instance_gpus)} in all` : "";
    const says = `${name}: node ${node}, ${gpus(seat.gpus)}${more}`;
    for (const run of stretches(seat.gpus)) {
      const cell = strip(
        run,
        `${component.colour}${seat.instance % 2 ? " odd" : ""}`,
        { "data-key": key, "data-says": says },
        label.length > LABEL_ROOM * run.length ? letter : label,
      );
      for (const each of [key, `component ${component.name}`]) push(this.runs, each, cell);
      box.append(cell);
    }
  }

  /** The same in a table, for those who do not see the drawing and for copying. */
  positions() {
    const rows = [...this.byName.values()].map((component) => {
      const own = this.seats.filter((seat) => seat.component === component.name);
      const nodes = new Set(own.map((seat) => seat.node));
      return [
        component.name,
        component.role,
        component.pool,
        number(component.instances),
        number(component.instance_gpus),
        `${nodes.size === 1 ? "node" : "nodes"} ${ranges(nodes)}`,
      ];
    });
    return el(
      "details",
      {},
      el("summary", {}, "Positions as a table"),
      table(
        "Positions",
        [
          "Component",
          "Role",
          "GPU pool",
          { name: "Instances", number: true },
          { name: "GPUs each", number: true },
          "On",
        ],
        rows,
      ),
    );
  }
}

/** What is lit together: an AFD unit, or an instance. */
function together(component, instance) {
  return component.unit
    ? `unit ${component.service} ${component.mode} ${component.unit} ${instance}`
    : `instance ${component.name} ${instance}`;
}

function push(lists, key, item) {
  if (lists.has(key)) lists.get(key).push(item);
  else lists.set(key, [item]);
}

/** Give each component a colour: that of its role where it is free, else the next; after the last, with stripes. */
function paint(components) {
  const free = Array.from({ length: COLOURS }, (_, i) => i);
  for (const component of components) {
    const wanted = PREFERRED[component.role];
    const at = Math.max(0, free.indexOf(wanted));
    const [taken] = free.length ? free.splice(at, 1) : [component.i % COLOURS];
    component.colour = `colour-${taken}${component.i >= COLOURS ? " striped" : ""}`;
  }
}

/** GPUs in stretches that are neighbours in one row. */
function stretches(gpus) {
  const found = [];
  for (const gpu of [...gpus].sort((a, b) => a - b)) {
    const last = found[found.length - 1];
    if (last && gpu === last[last.length - 1] + 1 && gpu % ROW !== 0) last.push(gpu);
    else found.push([gpu]);
  }
  return found;
}

function strip(run, colour, data, label) {
  return el(
    "span",
    {
      class: `strip ${colour}`,
      ...data,
      "data-gpus": run.length,
      css: {
        "grid-column": `${(run[0] % ROW) + 1} / span ${run.length}`,
        "grid-row": Math.floor(run[0] / ROW) + 1,
      },
    },
    label && el("b", {}, label),
  );
}

function gpus(run) {
  return `${run.length === 1 ? "GPU" : "GPUs"} ${ranges(run)}`;
}

/** Domains with runs of equal ones in one; equal: the same components on the same GPUs. */
function folded(domains, byNode) {
  const pattern = ({ nodes }) => nodes.map(
    (node) => (byNode.get(node) || []).map((seat) => `${seat.component}@${seat.gpus.join(",")}`).sort().join(";"),
  ).join("|");
  const drawn = [];
  let before = null;
  for (const domain of domains) {
    const own = pattern(domain);
    if (own === before) drawn[drawn.length - 1].last = domain.first;
    else drawn.push({ ...domain });
    before = own;
  }
  return drawn;
}
