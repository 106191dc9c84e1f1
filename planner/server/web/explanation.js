// Why a plan is what it is; and where there is none, the smallest changes that would allow one.

import { card, el, facts, table } from "./dom.js";
import { count, DIMENSIONS, MODES, number, objective, percent } from "./figures.js";
import { yaml } from "./yaml.js";

/** The outcome where nothing is feasible: what would change that, first of all. */
export function infeasibleView(plan, edit) {
  const { relaxations } = plan.explanation;
  const helpful = relaxations.filter((relaxation) => relaxation.needed !== null);
  return card(
    "What would make it possible",
    { id: "changes", class: "changes", note: help(helpful.length) },
    helpful.length > 0
      ? el("ul", { class: "remedies" }, helpful.map((each) => remedy(each, plan.scenario, edit)))
      : el(
        "p",
        {},
        relaxations.length
          ? "No single change is enough. What was tried, and why it fails, is below."
          : "No change was searched for.",
      ),
    deadEnds(relaxations.filter((relaxation) => relaxation.needed === null)),
  );
}

function help(changes) {
  if (!changes) return null;
  return changes === 1
    ? "This change is enough, and no smaller one of its kind is."
    : "Each of these changes is enough alone, and no smaller one of its kind is.";
}

function remedy(relaxation, scenario, edit) {
  const changed = scenario && changedScenario(scenario, relaxation);
  return el(
    "li",
    {},
    el(
      "p",
      { class: "change" },
      el("strong", {}, `${DIMENSIONS[relaxation.dimension]} `),
      el("span", { class: "from" }, number(relaxation.current)),
      el("span", { class: "hidden" }, " to "),
      el("span", { class: "arrow", "aria-hidden": "true" }, " → "),
      el("strong", {}, `${number(relaxation.needed)} ${relaxation.unit}`),
    ),
    el(
      "p",
      { class: "note" },
      [
        relaxation.service,
        MODES[relaxation.mode],
        relaxation.confirmed ? "confirmed by solving on both sides" : "not confirmed",
      ].filter(Boolean).join(" · "),
    ),
    relaxation.detail && el("p", { class: "note" }, relaxation.detail),
    changed && el("button", { type: "button", class: "primary", on: { click: () => edit(yaml(changed)) } }, "Try it"),
  );
}

/** The scenario with one limit relaxed; null where the change is not one field of the scenario. */
function changedScenario(scenario, { service, dimension, needed }) {
  const field = { ttft: "ttft_ms", tpot: "tpot_ms" }[dimension];
  const copy = structuredClone(scenario);
  const found = copy.services.find((each) => each.name === service);
  if (field && found) {
    // As precise as anyone writes a limit, and never below what is needed.
    found.slo[field] = Math.ceil(needed * 10) / 10;
    return copy;
  }
  if (dimension === "gpus" && copy.cluster.pools.length === 1) {
    copy.cluster.pools[0].count = Math.ceil(needed);
    return copy;
  }
  return null;
}

function deadEnds(relaxations) {
  if (!relaxations.length) return null;
  const groups = new Map();
  for (const each of relaxations) {
    const key = JSON.stringify([each.service, each.mode]);
    groups.set(key, [...(groups.get(key) || []), each]);
  }
  return el(
    "details",
    {},
    el("summary", {}, `${count(relaxations.length, "change")} that would not be enough alone`),
    [...groups.values()].map((group) => {
      const reasons = new Map();
      for (const each of group) reasons.set(
        each.detail,
        [...(reasons.get(each.detail) || []), DIMENSIONS[each.dimension]],
      );
      return [
        el("h3", {}, [group[0].service, MODES[group[0].mode]].filter(Boolean).join(", ")),
        facts([...reasons].map(([reason, dimensions]) => [dimensions.join(", "), reason])),
      ];
    }),
  );
}

/** What binds, what a change is worth, and notes; null where there is nothing to say. */
export function whyView(plan) {
  const { binding, what_if: whatIf, notes, rejected } = plan.explanation;
  const all = [...notes, ...plan.provenance.notes];
  const refused = Object.entries(rejected).sort((a, b) => b[1] - a[1]);
  if (!binding.length && !whatIf.length && !all.length && !refused.length) return null;
  return card(
    "Why",
    { id: "why" },
    binding.length > 0 && [el("h3", {}, "What binds"), facts(binding.map((each) => [each.what, each.detail]))],
    whatIf.length > 0 && [el("h3", {}, "What a change is worth"), whatIfs(plan, whatIf)],
    all.length > 0 && el("ul", { class: "notes" }, all.map((note) => el("li", {}, note))),
    refused.length > 0 && [
      el("h3", {}, "Refused before the search"),
      el(
        "ul",
        { class: "notes" },
        refused.map(([reason, times]) => el("li", {}, `${count(times, "option")}: ${reason}`)),
      ),
    ],
  );
}

function whatIfs(plan, changes) {
  const { maximizing } = objective(plan.objective);
  return table(
    "What a change is worth",
    [
      "Change",
      { name: "Before", number: true },
      { name: "After", number: true },
      { name: "Worth", number: true },
      "Note",
    ],
    changes.map(({ change, objective_before: before, objective_after: after, note }) => {
      if (after === null) return [change, number(before), el("span", { class: "bad" }, "no plan"), "", note];
      const gain = maximizing ? after - before : before - after;
      const worth = before ? percent((after - before) / Math.abs(before)) : number(after - before);
      return [
        change,
        number(before),
        number(after),
        el("span", { class: gain > 0 ? "good" : gain < 0 ? "bad" : "note" }, `${after > before ? "+" : ""}${worth}`),
        note,
      ];
    }),
  );
}
