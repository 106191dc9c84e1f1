// The modes side by side: what each reaches alone, why it loses, and what it trades for speed.

import { needsLog } from "./axis.js";
import { Chart } from "./chart.js";
import { card, el, facts, table } from "./dom.js";
import { count, MODES, milliseconds, number, objective } from "./figures.js";
import { statusPill } from "./runs.js";

const SHAPES = { aggregated: "circle", prefill_decode: "square", afd: "diamond", prefill_decode_afd: "triangle" };

/** Value and plan of a mode that the comparison is about: the best that can be launched, or the best of all. */
export function answer(result, launchable) {
  if (!launchable || (result.launchable_plan === null && !result.blocked_by.length)) {
    return { value: result.value, plan: result.plan };
  }
  return { value: result.launchable_value, plan: result.launchable_plan };
}

/** The question of a comparison, which its plans carry; null where there is none. */
export function scenarioOf(comparison) {
  return comparison.modes.find((result) => result.plan?.scenario)?.plan.scenario ?? null;
}

/**
 * Draw a comparison.
 *
 * @param {Object} comparison
 * @param {function(string, boolean): string} href address of the best plan of a mode, or of its best launchable one.
 * @returns {{node: Node, stop: function()}}
 */
export function comparisonView(comparison, href) {
  const curves = comparison.modes.filter((result) => result.pareto.length > 0);
  const chart = curves.length ? new Chart() : null;
  if (chart) chart.draw(pareto(curves, comparison));
  const node = el(
    "div",
    { class: "plan" },
    headline(comparison),
    modesView(comparison, href),
    chart &&
      card(
        "Speed for a user against yield of a GPU",
        { id: "pareto", note: "Each point is the best deployment at one TPOT limit. Up and right is better." },
        chart.node,
        el(
          "details",
          {},
          el("summary", {}, "Points as a table"),
          table(
            "Points of the curves",
            [
              "Mode",
              { name: "tokens/s per GPU", number: true },
              { name: "tokens/s per user", number: true },
              { name: "TPOT", number: true },
              { name: "TTFT", number: true },
              "Layout",
            ],
            curves.flatMap((result) =>
              result.pareto.map(
                (p) => [
                  MODES[result.mode],
                  number(p.tokens_per_s_per_gpu),
                  number(p.tokens_per_s_per_user),
                  milliseconds(p.tpot_ms),
                  milliseconds(p.ttft_ms),
                  p.layout,
                ],
              ),
            ),
          ),
        ),
      ),
    comparison.notes.length > 0 && card(
      "Notes",
      { id: "notes" },
      el("ul", { class: "notes" }, comparison.notes.map((note) => el("li", {}, note))),
    ),
  );
  return { node, stop: () => chart?.stop() };
}

function headline(comparison) {
  const best = comparison.modes.find((result) => result.mode === comparison.best);
  const found = best && answer(best, comparison.launchable);
  const { unit, aim } = objective(comparison.objective, scenarioOf(comparison));
  return el(
    "section",
    { class: `headline${best ? "" : " none"}`, "aria-label": "Outcome" },
    el(
      "div",
      { class: "outcome" },
      statusPill(found ? found.plan.status : "infeasible"),
      el(
        "p",
        { class: "value" },
        best ? [
          `${MODES[best.mode]}: ${number(found.value)}`,
          el("span", { class: "unit" }, ` ${unit}`),
        ] : "No mode has a plan",
      ),
      el(
        "p",
        { class: "note" },
        [
          best && `the best of ${count(comparison.modes.length, "mode")}`,
          comparison.launchable && "of what the engines can launch",
          aim,
        ].filter(Boolean).join(" · "),
      ),
    ),
  );
}

function modesView(comparison, href) {
  const { unit, maximizing } = objective(comparison.objective, scenarioOf(comparison));
  const largest = Math.max(
    0,
    ...comparison.modes.flatMap((result) => [result.value, result.launchable_value]).map(Math.abs),
  ) || 1;
  return card(
    "Modes",
    { id: "modes", note: `${unit}; ${maximizing ? "more" : "less"} is better` },
    el(
      "ul",
      { class: "modes" },
      comparison.modes.map((result) =>
        el(
          "li",
          { class: `mode ${result.mode}${result.mode === comparison.best ? " best" : ""}` },
          el(
            "div",
            { class: "name" },
            el("h3", {}, MODES[result.mode]),
            result.mode === comparison.best ? el("span", { class: "pill done" }, "best") : statusPill(result.status),
          ),
          ...measures(result, largest, href),
          reached(answer(result, comparison.launchable).plan),
          result.reason && el("p", { class: "note" }, `${result.reason[0].toUpperCase()}${result.reason.slice(1)}.`),
        ),
      ),
    ),
  );
}

/** The best plan, and the best that can be launched, where that is another. */
function measures(result, largest, href) {
  const bar = (name, value, plan, launchable) =>
    el(
      "div",
      { class: `measure${launchable ? " launched" : ""}` },
      el("span", { class: "note" }, name),
      el(
        "span",
        { class: "length" },
        el("span", { css: { width: `${value === null ? 0 : (Math.abs(value) / largest) * 100}%` } }),
      ),
      el("strong", {}, value === null ? "none" : number(value)),
      plan?.services.length > 0 && el(
        "a",
        { href: href(result.mode, launchable) },
        "plan",
        el("span", { class: "hidden" }, ` of ${MODES[result.mode]}, ${name}`),
        " →",
      ),
    );
  const blocked = result.blocked_by.length > 0;
  return [
    bar(blocked || result.value === null ? "best" : "best, can be launched", result.value, result.plan, false),
    blocked && bar("best to launch", result.launchable_value, result.launchable_plan, true),
    blocked && el("p", { class: "blocked" }, "The best cannot be launched: ", result.blocked_by.join("; "), "."),
  ];
}

/** Throughput per used GPU, and the worst times of any service. */
function reached(plan) {
  if (!plan?.services.length) return null;
  const gpus = Object.values(plan.gpus_used).reduce((sum, each) => sum + each, 0);
  const throughput = plan.services.reduce((sum, service) => sum + service.throughput_tok_s, 0);
  const worst = (name) => plan.services.map((service) => service[name]).filter((value) => value !== null).reduce(
    (a, b) => Math.max(a, b),
    -1,
  );
  const time = (name) => (worst(name) < 0 ? null : milliseconds(worst(name)));
  return facts([
    ["tokens/s per GPU", gpus ? number(throughput / gpus) : null],
    ["TTFT", time("ttft_ms")],
    ["TPOT", time("tpot_ms")],
    ["GPUs", number(gpus)],
  ]);
}

function pareto(curves, comparison) {
  const points = curves.flatMap((result) => result.pareto);
  const scenario = scenarioOf(comparison);
  const limits = new Set((scenario?.services || []).map((service) => service.slo.tpot_ms));
  const [slo] = limits;
  const x = points.map((p) => p.tokens_per_s_per_user);
  const y = points.map((p) => p.tokens_per_s_per_gpu);
  return {
    label: "Pareto curves: output tokens/s per GPU against output tokens/s per user, by mode",
    x: { label: "speed [output tokens/s per user]", log: needsLog(x), zero: !needsLog(x) },
    y: { label: "yield [output tokens/s per GPU]", log: needsLog(y), zero: !needsLog(y) },
    series: curves.map((result) => ({
      name: MODES[result.mode],
      key: result.mode,
      shape: SHAPES[result.mode],
      points: [...result.pareto]
        .sort((a, b) => a.tokens_per_s_per_user - b.tokens_per_s_per_user)
        .map((p) => ({
          x: p.tokens_per_s_per_user,
          y: p.tokens_per_s_per_gpu,
          text:
            `${number(p.tokens_per_s_per_gpu)} tokens/s per GPU at ${number(p.tokens_per_s_per_user)} tokens/s ` +
            `per user (TPOT ${milliseconds(p.tpot_ms)}): ${p.layout}`,
        })),
    })),
    marks: limits.size === 1 && slo ? [{ x: 1000 / slo, text: `TPOT limit ${milliseconds(slo)}` }] : [],
  };
}
