// What is proven, over which space, and where the figures come from.

import { card, el, facts, table } from "./dom.js";
import { gapText, number, objective, percent, seconds } from "./figures.js";

const OPERATORS = {
  gemm: "GEMM",
  experts: "experts",
  decode_attention: "decode attention",
  prefill_attention: "prefill attention",
  elementwise: "elementwise",
  all_reduce: "all-reduce",
  exchange: "exchange",
};

/** The certificate. */
export function certificateView(plan) {
  const {
    incumbent,
    bound,
    gap,
    gap_solver: solver,
    gap_discretisation: grids,
    measurement_error: error,
    space,
  } = plan.certificate;
  const { unit, maximizing } = objective(plan.objective, plan.scenario);
  const parts = [
    solver !== null && `${gapText(solver)} left by the solver`,
    grids !== null && `${gapText(grids)} by grids`,
  ].filter(Boolean);
  return card(
    "Proof",
    { id: "proof" },
    facts([
      ["this plan", incumbent === null ? null : `${number(incumbent)} ${unit}`],
      ["bound", bound === null ? null : `${number(bound)} ${unit}: no plan has ${maximizing ? "more" : "less"}`],
      ["gap", gap === null ? null : `${gapText(gap)}${parts.length ? `: ${parts.join(", ")}` : ""}`],
      [
        "cost model",
        error === null
          ? "not measured against hardware"
          : `off by ${percent(error)} against measurements, which the gap does not contain`,
      ],
    ]),
    el(
      "details",
      {},
      el("summary", {}, "The space that was searched"),
      facts(Object.entries(space).map(([name, value]) => [name.replaceAll("_", " "), written(value)])),
    ),
  );
}

/** Where the figures come from. */
export function provenanceView(plan) {
  const { kernels, operators, versions, seconds: stages, linearisation_error: linear, formulation } = plan.provenance;
  return card(
    "Where the figures come from",
    { id: "provenance" },
    facts([
      ["kernels", kernels],
      ["linear pieces", linear === null ? null : `at most ${percent(linear)} off`],
      ["formulation", formulation],
      ["versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
      ["time", Object.entries(stages).map(([stage, time]) => `${stage} ${seconds(time)}`).join(", ")],
    ]),
    operators.length > 0 &&
      el(
        "details",
        {},
        el("summary", {}, "Operators"),
        table(
          "Operators",
          [
            "Operator",
            "Source",
            { name: "Error (95%)", number: true },
            { name: "Outside", number: true },
            { name: "Count", number: true },
          ],
          operators.map((each) => [
            OPERATORS[each.operator] || each.operator,
            [
              each.source,
              each.framework && `${each.framework} ${each.version || ""}`,
              each.gpu,
              each.calibration,
            ].filter(Boolean).join(", "),
            percent(each.error_p95),
            each.outside > 1 ? `${number(each.count_outside)}, up to ${number(each.outside)}×` : "–",
            number(each.count),
          ]),
        ),
      ),
  );
}

function written(value) {
  return [value].flat().map((part) => (typeof part === "number" ? number(part) : part)).join(", ");
}
