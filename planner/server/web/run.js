// The page of one run: its progress while it goes on, then its result.

import * as api from "./api.js";
import { announce, card, el, fill } from "./dom.js";
import { answer, comparisonView, scenarioOf } from "./comparison.js";
import { MODES, number, objective, STATUSES } from "./figures.js";
import { planView } from "./plan.js";
import { convergenceChart, Progress, spoken } from "./progress.js";
import { remember, runOf } from "./runs.js";
import { editNext, labelOf } from "./scenario.js";
import { yaml } from "./yaml.js";

const SPOKEN_EVERY_MS = 5000;

/**
 * @param {Element} page
 * @param {"plans"|"comparisons"} kind
 * @param {string} id of the job.
 * @param {string|null} mode of a comparison whose plan is shown.
 * @param {boolean} launchable whether it is the best plan that can be launched.
 */
export function runPage(page, kind, id, mode = null, launchable = false) {
  return new RunPage(page, kind, id, mode, launchable);
}

/** Objective value of a plan with its unit; null where it has none. */
function valueOf(plan) {
  const { incumbent } = plan.certificate;
  return incumbent === null ? null : `${number(incumbent)} ${objective(plan.objective, plan.scenario).unit}`;
}

class RunPage {
  constructor(page, kind, id, mode, launchable) {
    Object.assign(this, { page, kind, id, mode, launchable });
    this.known = runOf(id);
    this.title = this.known?.label || (kind === "plans" ? "Plan" : "Comparison");
    this.stopping = new AbortController();
    this.parts = []; // what must be stopped with the page
    this.heading = el("h1", { tabindex: -1 }, this.title);
    this.actions = el("div", { class: "actions no-print" });
    this.body = el("div");
    fill(page, el("div", { class: "title" }, this.heading, this.actions), this.body);
    this.show().catch((problem) => this.fail(problem));
  }

  stop() {
    this.stopping.abort();
    for (const part of this.parts) part.stop();
  }

  async show() {
    const { signal } = this.stopping;
    let job = await api.job(this.kind, this.id, {}, signal);
    if (!job.finished) job = await this.wait(job);
    this.finished(job);
  }

  async wait(job) {
    const progress = new Progress({
      of: this.known?.of ?? null,
      limit_s: this.known?.time_limit_s ?? null,
      cancel: () =>
        api.cancel(this.kind, this.id).catch((problem) => {
          announce(problem.message);
          throw problem;
        }),
    });
    this.parts.push(progress);
    fill(this.body, progress.node);
    progress.status(job);
    let said = 0;
    try {
      return await api.follow(this.kind, this.id, {
        signal: this.stopping.signal,
        status: (status) => progress.status(status),
        progress: (point) => {
          progress.point(point);
          if (Date.now() - said < SPOKEN_EVERY_MS) return;
          said = Date.now();
          announce(spoken(point));
        },
      });
    } finally {
      progress.stop();
    }
  }

  finished(job) {
    const plan = job.plan ?? null;
    const scenario = plan?.scenario || (job.comparison && scenarioOf(job.comparison));
    if (scenario) this.heading.textContent = this.title = labelOf(scenario);
    if (this.mode) this.heading.textContent = `${this.title}: ${MODES[this.mode] || this.mode}`;
    document.title = `${this.heading.textContent} · Cleave`;
    if (this.known || plan || job.comparison) this.keep(job);
    fill(this.actions, this.buttons(job, scenario));
    if (job.status === "failed" || job.status === "cancelled") this.ended(job);
    else if (job.comparison) this.comparison(job.comparison);
    else this.plan(
      plan,
      { name: `plan-${this.id.slice(-8)}`, reportHref: api.address(`plans/${this.id}/report`).href, job },
    );
    announce(
      [`Finished: ${STATUSES[job.status] || job.status}`, plan && valueOf(plan)].filter(Boolean).join(", "),
    );
  }

  keep(job) {
    const best = job.comparison?.modes.find((each) => each.mode === job.comparison.best);
    const plan = job.plan ?? (best && answer(best, job.comparison.launchable).plan);
    remember({
      id: this.id,
      kind: this.kind,
      label: this.title,
      status: job.status,
      created_at: job.created_at,
      result: plan ? valueOf(plan) : null,
    });
  }

  buttons(job, scenario) {
    const text = this.known?.text || (scenario && yaml(scenario));
    const [other, words] = this.kind === "plans" ? ["comparisons", "Compare modes"] : ["plans", "Plan"];
    const again = (kind) => async () => {
      try {
        const next = await api.submit(kind, text, {});
        const of = scenario && objective(scenario.objective, scenario);
        remember({ id: next.id, kind, label: this.title, of, status: next.status, created_at: next.created_at, text });
        location.hash = `#/${kind}/${next.id}`;
      } catch (problem) {
        this.fail(problem);
      }
    };
    return [
      this.mode && el("a", { class: "button", href: `#/${this.kind}/${this.id}` }, "← All modes"),
      text && el("button", { type: "button", on: { click: () => this.edit(text) } }, "Edit the scenario"),
      text && el("button", { type: "button", on: { click: again(other) } }, words),
      el("button", { type: "button", on: { click: () => window.print() } }, "Print"),
    ];
  }

  edit(text) {
    editNext(text);
    location.hash = "#/";
  }

  plan(plan, { name, reportHref, job }) {
    const history = (job?.progress?.history || []).filter((point) => point.incumbent !== null || point.bound !== null);
    // A plan that was proven at once has nothing to show.
    const chart = new Set(history.map((point) => point.time_s)).size > 1 ? convergenceChart(
      history,
      plan,
      job.progress.time_s,
    ) : null;
    if (chart) this.parts.push(chart);
    const extra = chart && card("How the plan was proven", { id: "convergence" }, chart.node);
    fill(this.body, planView(plan, { name, reportHref, edit: (text) => this.edit(text), extra }));
  }

  comparison(comparison) {
    if (this.mode) {
      const result = comparison.modes.find((each) => each.mode === this.mode);
      const plan = this.launchable ? result?.launchable_plan : result?.plan;
      if (plan) this.plan(
        plan,
        { name: `plan-${this.id.slice(-8)}-${this.mode}${this.launchable ? "-launchable" : ""}` },
      );
      else this.fail(new api.Problem({ detail: `there is no plan of mode ${this.mode} in this comparison` }));
      return;
    }
    const view = comparisonView(
      comparison,
      (mode, launchable) => `#/comparisons/${this.id}/${mode}${launchable ? "/launchable" : ""}`,
    );
    this.parts.push(view);
    fill(this.body, view.node);
  }

  ended(job) {
    const words =
      job.status === "cancelled"
        ? "This run was cancelled before it had a result."
        : job.error?.detail || "The run failed.";
    fill(
      this.body,
      card(
        job.status === "cancelled" ? "Cancelled" : "Failed",
        { id: "ended", class: job.status },
        job.error?.field && el("p", {}, el("code", {}, job.error.field)),
        el("p", {}, words),
      ),
    );
  }

  fail(problem) {
    if (problem.name === "AbortError") return;
    const words =
      problem.status === 404
        ? "The server has no run of this name. Runs are kept by the server that made them."
        : problem.message;
    fill(
      this.body,
      card(
        "This run cannot be shown",
        { id: "ended", class: "failed" },
        el("p", { role: "alert" }, words),
        el(
          "div",
          { class: "actions" },
          el("button", { type: "button", on: { click: () => this.again() } }, "Try again"),
        ),
      ),
    );
  }

  again() {
    fill(this.body);
    this.show().catch((problem) => this.fail(problem));
  }
}
