// A run while it goes on: the plan found so far against the bound, the stage, and the way to stop it.

import { Chart } from "./chart.js";
import { el, fill } from "./dom.js";
import { count, gapText, number, objective, seconds } from "./figures.js";

const TICK_MS = 250;

export class Progress {
  /**
   * @param {{of: Object|null, limit_s: number|null, cancel: function(): Promise}} options `of`: what `objective`
   *   says of the objective, where it is known.
   */
  constructor({ of, limit_s, cancel }) {
    this.of = of;
    this.limit_s = limit_s;
    this.history = [];
    this.chart = new Chart();
    this.stage = el("p", { class: "stage" }, "waiting for the server");
    this.bar = el("progress", { "aria-label": "Time used", max: 1, ...(limit_s ? { value: 0 } : {}) });
    this.clock = el("span", { class: "note clock" });
    this.figures = el("dl", { class: "tiles" });
    this.button = el(
      "button",
      {
        type: "button",
        on: {
          click: () => {
            this.button.disabled = true;
            this.button.textContent = "Stopping …";
            cancel().catch(() => {
              this.button.disabled = false;
              this.button.textContent = "Cancel";
            });
          },
        },
      },
      "Cancel",
    );
    this.node = el(
      "section",
      { class: "card running", "aria-label": "Progress" },
      el(
        "div",
        { class: "bar" },
        el("span", { class: "spinner", "aria-hidden": "true" }),
        this.stage,
        el("span", { class: "spring" }),
        this.clock,
        this.button,
      ),
      this.bar,
      this.figures,
      this.chart.node,
    );
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.draw();
  }

  stop() {
    clearInterval(this.timer);
    this.chart.stop();
  }

  /** Take a status of the job: queued or running. */
  status({ status, queue_position: position, started_at: started }) {
    if (started) this.started ??= Date.parse(started);
    if (status === "running") this.started ??= Date.now();
    if (status === "queued") {
      this.stage.textContent = position ? `queued, ${count(position, "run")} before this one` : "queued, next to run";
    } else if (status === "running" && !this.history.length) {
      this.stage.textContent = "reading the scenario";
    }
  }

  /** Take a point: time, stage, incumbent, bound. */
  point(point) {
    this.history.push(point);
    this.started ??= Date.now() - point.time_s * 1000;
    if (point.stage) this.stage.textContent = point.stage;
    if (this.frame) return;
    // Many points may come at once, when a stream is replayed: one drawing does for all.
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  tick() {
    if (!this.started) return;
    const elapsed = Math.max(0, (Date.now() - this.started) / 1000);
    this.clock.textContent = `${elapsed.toFixed(0)} s${this.limit_s ? ` of ${number(this.limit_s)} s` : ""}`;
    if (this.limit_s) this.bar.value = Math.min(1, elapsed / this.limit_s);
  }

  draw() {
    const { incumbent, bound } = newest(this.history);
    const unit = this.of ? this.of.unit : "";
    fill(
      this.figures,
      tile("plan found", incumbent === null ? "–" : number(incumbent), unit),
      tile("bound", bound === null ? "–" : number(bound), unit),
      tile("gap", gapText(gapOf(incumbent, bound)), ""),
    );
    this.chart.draw(convergence(this.history, this.of));
  }
}

export function tile(name, value, unit) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, unit && el("span", { class: "unit" }, ` ${unit}`)));
}

/** The chart of a finished run. */
export function convergenceChart(history, plan, after_s) {
  const chart = new Chart();
  chart.draw(convergence(history, objective(plan.objective, plan.scenario), after_s));
  return chart;
}

/** Specification of the chart: plan and bound over time. */
function convergence(history, of, after_s = 0) {
  const points = (name) => history.filter(
    (point) => point[name] !== null && point[name] !== undefined,
  ).map((point) => ({ x: point.time_s, y: point[name] }));
  const lines = [points("incumbent"), points("bound")];
  const last = Math.max(0, after_s, ...history.map((point) => point.time_s));
  for (const line of lines) {
    const end = line[line.length - 1];
    if (end && end.x < last) line.push({ x: last, y: end.y });
  }
  const end = (line, name) => (line.length ? `${name} ${number(line[line.length - 1].y)}` : null);
  const [plan, bound] = lines;
  return {
    label: ["Plan found and bound over time", end(plan, "plan"), end(bound, "bound")].filter(Boolean).join(", "),
    x: { label: "time [s]", zero: true, values: [last], tight: true },
    y: { label: of ? `${of.quantity} [${of.unit}]` : "objective", zero: false },
    series: [
      { name: "plan found", key: "incumbent", points: plan, step: true, end: end(plan, "plan") },
      { name: "bound: no plan is better", key: "bound", points: bound, step: true, end: end(bound, "bound") },
    ],
    area: ["plan found", "bound: no plan is better"],
    empty: history.length ? "No plan and no bound yet: the options are being worked out." : "Nothing to draw yet.",
  };
}

function newest(history) {
  const last = (name) => history.findLast((point) => point[name] !== null && point[name] !== undefined)?.[name] ?? null;
  return { incumbent: last("incumbent"), bound: last("bound") };
}

function gapOf(incumbent, bound) {
  return incumbent === null || bound === null || incumbent === 0 ? null : Math.abs(
    bound - incumbent,
  ) / Math.abs(incumbent);
}

/** A short report for those who listen: said now and then, never at every point. */
export function spoken(point) {
  const gap = gapOf(point.incumbent, point.bound);
  return `${point.stage || "solving"}${gap === null ? "" : `, gap ${gapText(gap)}`}, ${seconds(point.time_s)}`;
}
