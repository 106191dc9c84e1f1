// A plan: what is deployed, what it reaches, how good that is and why.

import * as api from "./api.js";
import { card, el, fill, table } from "./dom.js";
import { downloadView } from "./download.js";
import { infeasibleView, whyView } from "./explanation.js";
import { count, gapText, layout, milliseconds, MODES, number, objective, percent, seconds } from "./figures.js";
import { placementView } from "./placement.js";
import { tile } from "./progress.js";
import { certificateView, provenanceView } from "./proof.js";
import { statusPill } from "./runs.js";

const TOLERANCE = 1e-6; // a limit that is met to the solver's tolerance is met

/**
 * Draw a plan.
 *
 * @param {Object} plan
 * @param {{name: string, reportHref: string|null, edit: function(string), extra: Node|null}} options `name` of its
 *   files; `edit` opens a scenario's text; `extra` stands below the reasons.
 */
export function planView(plan, { name, reportHref = null, edit, extra = null }) {
  const found = plan.services.length > 0;
  return el(
    "div",
    { class: "plan" },
    headline(plan),
    el(
      "div",
      { class: "result" },
      el(
        "div",
        { class: "main" },
        found ? [servicesView(plan), whereView(plan)] : infeasibleView(plan, edit),
        whyView(plan),
        extra,
      ),
      el(
        "div",
        { class: "side" },
        found && downloadView(plan, name, reportHref),
        certificateView(plan),
        provenanceView(plan),
      ),
    ),
  );
}

/** The outcome in a few figures. */
function headline(plan) {
  const { incumbent, gap } = plan.certificate;
  const { unit, aim } = objective(plan.objective, plan.scenario);
  const stages = plan.provenance.seconds;
  const time = stages.total ?? Object.values(stages).reduce((sum, each) => sum + each, 0);
  const used = sum(plan.gpus_used);
  const idle = sum(plan.gpus_idle);
  if (incumbent === null) {
    const words = { infeasible: "No deployment meets this scenario", time_limit: "Nothing was found in time" };
    return el(
      "section",
      { class: "headline none", "aria-label": "Outcome" },
      statusPill(plan.status),
      el("p", { class: "value" }, words[plan.status] || plan.status),
      el("p", { class: "note" }, `${aim}, ${seconds(time)}`),
    );
  }
  return el(
    "section",
    { class: "headline", "aria-label": "Outcome" },
    el(
      "div",
      { class: "outcome" },
      statusPill(plan.status),
      el("p", { class: "value" }, number(incumbent), el("span", { class: "unit" }, ` ${unit}`)),
      el(
        "p",
        { class: "note" },
        gap < 5e-7 ? "proven: no deployment is better" : `proven: no deployment is better by more than ${gapText(gap)}`,
        ` · ${aim} · ${seconds(time)}`,
      ),
    ),
    el(
      "dl",
      { class: "tiles" },
      tile("GPUs used", number(used), `of ${number(used + idle)}`),
      tile("cost", number(plan.cost_per_hour), "per hour"),
      plan.cost_per_million_tokens !== null && tile(
        "cost",
        number(plan.cost_per_million_tokens),
        "per million output tokens",
      ),
      tile("power", number(plan.power_kw), "kW"),
    ),
  );
}

function servicesView(plan) {
  const slos = new Map((plan.scenario?.services || []).map((service) => [service.name, service.slo]));
  return plan.services.map((service, i) =>
    card(
      service.name,
      { id: `service-${i}`, class: "service" },
      el(
        "dl",
        { class: "tiles" },
        tile("mode", MODES[service.mode] || service.mode, ""),
        tile("throughput", number(service.throughput_tok_s), "tokens/s"),
        tile("requests", number(service.request_rate_rps), "per second"),
        limit("TTFT", service.ttft_ms, slos.get(service.name)?.ttft_ms, slos.get(service.name)?.statistic),
        limit("TPOT", service.tpot_ms, slos.get(service.name)?.tpot_ms, slos.get(service.name)?.statistic),
      ),
      service.deployments.map((deployment) => deploymentView(deployment, service)),
    ),
  );
}

/** A time against its limit, as a figure and a bar. */
function limit(name, value, most, statistic) {
  if (value === null) return null;
  if (most === null || most === undefined) return tile(name, milliseconds(value), statistic || "");
  const met = value <= most * (1 + TOLERANCE);
  return el(
    "div",
    { class: `limit ${met ? "met" : "missed"}` },
    el("dt", {}, `${name} (${statistic})`),
    el(
      "dd",
      {},
      milliseconds(value),
      el("span", { class: "unit" }, met ? ` ≤ ${milliseconds(most)}` : ` > ${milliseconds(most)}`),
      el("span", { class: "tally" }, el("span", { css: { width: `${Math.min(100, (value / most) * 100)}%` } })),
      el("span", { class: met ? "good" : "bad" }, met ? spare(1 - value / most) : "MISSED"),
    ),
  );
}

function spare(share) {
  return share < 5e-4 ? "just met" : `met, ${percent(Math.round(share * 1000) / 1000)} to spare`;
}

function deploymentView(deployment, service) {
  const several = service.deployments.length > 1;
  const periods = new Set(service.deployments.map((each) => each.period)).size > 1;
  return [
    several && el(
      "h3",
      {},
      `${periods ? `Period ${deployment.period}: ` : ""}${MODES[deployment.mode]}, `,
      `${percent(deployment.share)} of the requests, ${number(deployment.throughput_tok_s)} tokens/s`,
    ),
    table(
      `Pools of ${service.name}`,
      [
        "Role",
        "GPU pool",
        { name: "Replicas × GPUs", number: true },
        "Layout",
        { name: "Batch", number: true },
        { name: "Chunk", number: true },
        "Utilisation",
      ],
      deployment.pools.map((pool) => [
        pool.role,
        pool.gpu_pool,
        [
          `${number(pool.replicas)} × ${number(pool.gpus_per_replica)}`,
          ` = ${number(pool.replicas * pool.gpus_per_replica)}`,
        ],
        el("code", {}, layout(pool)),
        number(pool.batch),
        pool.chunk_tokens ? number(pool.chunk_tokens) : "–",
        el(
          "span",
          { class: "busy" },
          el("span", { class: "tally" }, el("span", { css: { width: `${pool.utilisation * 100}%` } })),
          percent(Math.round(pool.utilisation * 1000) / 1000),
        ),
      ]),
    ),
    units(deployment).map((line) => el("p", { class: "note" }, line)),
    deployment.binding.length > 0 && el("p", { class: "note" }, `Held back by ${deployment.binding.join("; ")}.`),
  ];
}

/** One sentence for each kind of AFD unit: what stands in lockstep. */
function units(deployment) {
  const members = new Map();
  for (const pool of deployment.pools) {
    if (pool.unit !== null) members.set(pool.unit, [...(members.get(pool.unit) || []), pool]);
  }
  return [...members].map(([unit, pools]) => {
    const many = pools[0].units || 1;
    const inside = [...pools]
      .sort((a, b) => (a.role === "ffn") - (b.role === "ffn"))
      .map((pool) => `${number(pool.replicas / many)} ${pool.role} of ${count(pool.gpus_per_replica, "GPU")}`);
    const batches = count(pools[0].microbatches, "micro-batch", "micro-batches");
    return `AFD ${unit}: ${number(many)} × (${inside.join(" + ")}), ${batches}.`;
  });
}

/** Where it sits; the server places it, as it does for launch files. */
function whereView(plan) {
  const body = el("div", { "aria-busy": "true" }, el("p", { class: "note" }, "Placing …"));
  api
    .placement(plan)
    .then((placement) => fill(body, placementView(placement)))
    .catch(
      (problem) => fill(body, el("p", { class: "note" }, `It cannot be drawn: ${problem.message}`), idleBars(plan)),
    )
    .finally(() => body.removeAttribute("aria-busy"));
  return card(
    "Where it sits",
    { id: "where", note: "Nodes and scale-up domains of each pool. One cell is one GPU." },
    body,
  );
}

function idleBars(plan) {
  return table(
    "GPUs by pool",
    ["GPU pool", { name: "Used", number: true }, { name: "Idle", number: true }],
    Object.keys({ ...plan.gpus_used, ...plan.gpus_idle }).map(
      (name) => [name, number(plan.gpus_used[name] || 0), number(plan.gpus_idle[name] || 0)],
    ),
  );
}

function sum(byPool) {
  return Object.values(byPool).reduce((total, each) => total + each, 0);
}
