// A line chart as SVG, drawn anew at every width so that its text keeps its size.

import { Axis } from "./axis.js";
import { el, fill, svg } from "./dom.js";
import { number } from "./figures.js";

const HEIGHT = 280;
const ROOM = { top: 14, right: 16, bottom: 44, left: 76 };
const LABEL_ROOM = 130; // right of the lines, where their names stand
const NARROW = 480; // below this width names stand in the legend alone
const LABEL_HEIGHT = 16;
const SHAPES = {
  circle: (x, y) => svg("circle", { cx: x, cy: y, r: 5 }),
  square: (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }),
  diamond: (x, y) => svg("path", { d: `M${x} ${y - 6.5}L${x + 6.5} ${y}L${x} ${y + 6.5}L${x - 6.5} ${y}Z` }),
  triangle: (x, y) => svg("path", { d: `M${x} ${y - 6}L${x + 6} ${y + 5}H${x - 6}Z` }),
};

export class Chart {
  constructor() {
    this.canvas = el("div", { class: "canvas" });
    this.legend = el("ul", { class: "legend" });
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.node = el("figure", { class: "chart" }, this.legend, this.canvas, this.readout);
    this.width = 0;
    this.observer = new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - this.width) < 1) return;
      this.width = entry.contentRect.width;
      if (this.spec) this.render();
    });
    this.observer.observe(this.canvas);
  }

  stop() {
    this.observer.disconnect();
  }

  /**
   * Draw.
   *
   * @param {Object} spec
   *   `label`: what is shown, in words. `x`, `y`: {label, log, zero, tight, values} (values: what the axis must show
   *   beside the lines). `series`: list of {name, key, points: [{x, y, text}], step, shape, end}; `key` is the class
   *   that colours it, `shape` marks its points (they can then be visited by keyboard and say `text`), `end` is written
   *   at its end.
   *   `area`: two names of series whose space between is shaded. `marks`: list of {x, text}, vertical lines.
   *   `empty`: what to say where there is no point.
   */
  draw(spec) {
    this.spec = spec;
    fill(
      this.legend,
      spec.series.map((line) => el("li", {}, sample(line), line.name)),
      (spec.marks || []).map(
        (mark) => el(
          "li",
          {},
          svg(
            "svg",
            { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" },
            svg("path", { class: "mark", d: "M13 0V12" }),
          ),
          mark.text,
        ),
      ),
    );
    if (this.width > 0) this.render();
  }

  render() {
    const { series, x, y, marks = [], label } = this.spec;
    const points = series.flatMap((line) => line.points);
    if (!points.length) {
      fill(this.canvas, el("p", { class: "note blank" }, this.spec.empty));
      return;
    }
    const wide = this.width >= NARROW && series.some((line) => line.end);
    const box = {
      left: ROOM.left,
      top: ROOM.top,
      right: this.width - (wide ? LABEL_ROOM : ROOM.right),
      bottom: HEIGHT - ROOM.bottom,
    };
    const xs = new Axis([...points.map((p) => p.x), ...(x.values || [])], { ...x, ticks: wide ? 7 : 4 });
    const ys = new Axis([...points.map((p) => p.y), ...(y.values || [])], y);
    const to = (point) => [
      round(box.left + xs.at(point.x) * (box.right - box.left)),
      round(box.bottom - ys.at(point.y) * (box.bottom - box.top)),
    ];
    const picture = svg(
      "svg",
      { width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}`, role: "group", "aria-label": label },
      this.axes(xs, ys, box),
      this.area(to),
      marks.map((mark) => {
        const at = to({ x: mark.x, y: ys.low })[0];
        return at >= box.left && at <= box.right && svg(
          "path",
          { class: "mark", d: `M${at} ${box.top}V${box.bottom}` },
        );
      }),
      series.map((line) => this.line(line, to)),
      wide && this.ends(to, box),
    );
    fill(this.canvas, picture);
  }

  axes(xs, ys, box) {
    const middle = (box.top + box.bottom) / 2;
    return svg(
      "g",
      { class: "axes", "aria-hidden": "true" },
      ys.ticks.map((tick) => {
        const at = round(box.bottom - ys.at(tick) * (box.bottom - box.top));
        return [
          svg("path", { class: "grid", d: `M${box.left} ${at}H${box.right}` }),
          svg("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, short(tick, ys.step)),
        ];
      }),
      xs.ticks.map((tick) => {
        const at = round(box.left + xs.at(tick) * (box.right - box.left));
        return [
          svg("path", { class: "grid", d: `M${at} ${box.top}V${box.bottom}` }),
          svg("text", { x: at, y: box.bottom + 18, "text-anchor": "middle" }, short(tick, xs.step)),
        ];
      }),
      svg("path", { class: "frame", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` }),
      svg(
        "text",
        { class: "name", x: (box.left + box.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
        this.spec.x.label,
      ),
      svg(
        "text",
        { class: "name", x: 14, y: middle, transform: `rotate(-90 14 ${middle})`, "text-anchor": "middle" },
        this.spec.y.label,
      ),
    );
  }

  area(to) {
    if (!this.spec.area) return null;
    const [first, second] = this.spec.area.map((name) => this.spec.series.find((line) => line.name === name));
    if (!first?.points.length || !second?.points.length) return null;
    const from = Math.max(first.points[0].x, second.points[0].x);
    const edge = (line) => path(line.points, to, line.step, from);
    const back = path(second.points, to, second.step, from).slice(1).split("L").reverse().join("L");
    return svg("path", { class: "between", d: `${edge(first)}L${back}Z` });
  }

  line(line, to) {
    const marks = (line.shape ? line.points : []).map((point) => {
      const say = () => (this.readout.textContent = `${line.name}: ${point.text}`);
      return svg(
        "g",
        {
          class: "point",
          tabindex: 0,
          role: "img",
          "aria-label": `${line.name}: ${point.text}`,
          on: { pointerenter: say, focus: say },
        },
        SHAPES[line.shape](...to(point)),
      );
    });
    // A line of one point would not be seen.
    const dots = line.step && line.points.map(
      (point) => svg("circle", { class: "dots", cx: to(point)[0], cy: to(point)[1], r: 2.6 }),
    );
    return svg(
      "g",
      { class: `series ${line.key}` },
      line.points.length > 0 && svg("path", { class: "line", d: path(line.points, to, line.step) }),
      dots,
      marks,
    );
  }

  /** Names at the ends of the lines, pushed apart where they would overlap. */
  ends(to, box) {
    const labels = this.spec.series
      .filter((line) => line.end && line.points.length)
      .map((line) => ({ line, y: to(line.points[line.points.length - 1])[1] }))
      .sort((a, b) => a.y - b.y);
    labels.forEach((label, i) => {
      if (i > 0) label.y = Math.max(label.y, labels[i - 1].y + LABEL_HEIGHT);
    });
    return labels.map(({ line, y }) => svg("text", { class: `end ${line.key}`, x: box.right + 8, y: y + 4 }, line.end));
  }
}

function sample(line) {
  return svg(
    "svg",
    { viewBox: "0 0 26 12", width: 26, height: 12, class: `series ${line.key}`, "aria-hidden": "true" },
    svg("path", { class: "line", d: "M0 6H26" }),
    line.shape && svg("g", { class: "point" }, SHAPES[line.shape](13, 6)),
  );
}

function path(points, to, step, from = -Infinity) {
  const shown = [];
  for (const point of points) {
    const last = shown[shown.length - 1];
    if (step && last) shown.push({ x: point.x, y: last.y });
    shown.push(point);
  }
  const kept = [];
  for (const point of shown) {
    if (point.x < from) kept.length = 0;
    kept.push(point.x < from ? { ...point, x: from } : point);
  }
  return `M${kept.map((point) => to(point).join(" ")).join("L")}`;
}

function round(value) {
  return Math.round(value * 10) / 10;
}

/** A tick in few characters, 120k or 1.5M, with the digits that tell it from the next; `step` is null on a log axis. */
function short(value, step) {
  const size = Math.abs(value);
  const [by, unit] = size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  if (step === null) return `${number(value / by)}${unit}`;
  const digits = Math.min(6, Math.max(0, Math.ceil(-Math.log10(step / by) - 1e-9)));
  return `${(value / by).toLocaleString("en-US", { maximumFractionDigits: digits })}${unit}`;
}
