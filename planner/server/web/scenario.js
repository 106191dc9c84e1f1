// The page that asks: an editor, what the server makes of its text, and the ways to run it.

import * as api from "./api.js";
import { announce, card, el, facts, fill } from "./dom.js";
import { Editor } from "./editor.js";
import { count, MODES, number, objective } from "./figures.js";
import { remember, runList, runs } from "./runs.js";

const DRAFT = "cleave.draft";
const OPTIONS = "cleave.options";
const DELAY_MS = 250; // from the last keystroke to the check
const RECENT = 5;
const MOST_BYTES = 1_000_000; // of a file that is opened; a scenario has a few thousand
const DEFAULTS = { gap: "0.1", time_limit_s: "60", what_if: false };

/** Text that the next scenario page starts with; set by the button that edits a run's scenario. */
let handedOver = null;

export function editNext(text) {
  handedOver = text;
}

export function scenarioPage(page) {
  return new ScenarioPage(page);
}

class ScenarioPage {
  title = "Scenario";

  constructor(page) {
    this.options = { ...DEFAULTS, ...read(OPTIONS, {}) };
    this.checked = null; // the text that was checked last, and found valid
    this.scenario = null; // what the server made of it
    this.editor = new Editor({
      label: "Scenario, YAML or JSON",
      describedBy: "errors",
      onChange: () => this.changed(),
    });
    this.verdict = el("p", { class: "verdict", id: "verdict" });
    this.errors = el("ul", { class: "errors", id: "errors" });
    this.summary = el("div", {}, el("p", { class: "note" }, "What the server reads in the text will be shown here."));
    this.examples = el(
      "select",
      { id: "example", on: { change: (event) => this.example(event.target.value) } },
      el("option", { value: "" }, "Load an example …"),
    );
    this.file = el("input", {
      type: "file",
      id: "file",
      class: "hidden",
      tabindex: -1,
      accept: ".yaml,.yml,.json,text/yaml,application/json",
      "aria-label": "Scenario file",
      on: { change: () => this.open(this.file.files[0]) },
    });
    this.planButton = this.button("Plan", "Ctrl Enter", "primary", () => this.run("plans"));
    this.compareButton = this.button("Compare modes", "Ctrl Shift Enter", "", () => this.run("comparisons"));
    this.trouble = el("p", { class: "trouble", role: "alert", hidden: true });
    fill(page, this.layout());
    this.keys = (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      this.run(event.shiftKey ? "comparisons" : "plans");
    };
    document.addEventListener("keydown", this.keys);
    this.load();
  }

  stop() {
    document.removeEventListener("keydown", this.keys);
    clearTimeout(this.timer);
    this.check?.abort();
  }

  layout() {
    const recent = runs().slice(0, RECENT);
    return [
      el("h1", { tabindex: -1 }, "What should be deployed?"),
      el(
        "p",
        { class: "lead" },
        "Describe GPUs, services and objectives. The answer is the best deployment, with a proof of how good it is.",
      ),
      el(
        "div",
        { class: "ask" },
        el(
          "section",
          { class: "card paper", "aria-label": "Scenario" },
          el(
            "div",
            { class: "bar" },
            el("label", { for: "example", class: "hidden" }, "Example"),
            this.examples,
            el("button", { type: "button", on: { click: () => this.file.click() } }, "Open a file …"),
            this.file,
            el("span", { class: "spring" }),
            this.verdict,
          ),
          this.editor.node,
          this.errors,
        ),
        el(
          "div",
          { class: "side" },
          card(
            "Run",
            { id: "run" },
            el(
              "form",
              {
                on: {
                  submit: (event) => {
                    event.preventDefault();
                    this.run("plans");
                  },
                },
              },
              el(
                "div",
                { class: "fields" },
                this.field(
                  "gap",
                  "Gap",
                  "%",
                  "The plan counts as optimal when no other can be better by more.",
                  { min: 0, max: 100, step: "any" },
                ),
                this.field(
                  "time_limit_s",
                  "Time limit",
                  "s",
                  "After it, the best plan found so far is the answer.",
                  { min: 0.1, step: "any" },
                ),
              ),
              el(
                "label",
                { class: "tick" },
                el("input", {
                  type: "checkbox",
                  id: "what_if",
                  checked: this.options.what_if,
                  on: { change: (event) => this.set("what_if", event.target.checked) },
                }),
                "Say what one more GPU or millisecond is worth (solves again, takes longer)",
              ),
              el("div", { class: "actions" }, this.planButton, this.compareButton),
              this.trouble,
            ),
          ),
          card("As the server reads it", { id: "read" }, this.summary),
          recent.length > 0 && card(
            "Recent runs",
            { id: "recent" },
            runList(recent),
            el("p", { class: "note" }, el("a", { href: "#/runs" }, "All runs")),
          ),
        ),
      ),
    ];
  }

  button(text, keys, kind, click) {
    return el(
      "button",
      {
        type: kind ? "submit" : "button",
        class: kind,
        "aria-keyshortcuts": keys.replace("Ctrl", "Control").replaceAll(" ", "+"),
        on: kind ? {} : { click },
      },
      text,
      el("kbd", { "aria-hidden": "true" }, keys.replaceAll(" ", " + ")),
    );
  }

  field(name, label, unit, help, limits) {
    return el(
      "div",
      { class: "field" },
      el("label", { for: name }, label),
      el(
        "span",
        { class: "with-unit" },
        el("input", {
          id: name,
          type: "number",
          inputmode: "decimal",
          value: this.options[name],
          "aria-describedby": `${name}-help`,
          ...limits,
          on: { input: (event) => this.set(name, event.target.value) },
        }),
        el("span", {}, unit),
      ),
      el("span", { id: `${name}-help`, class: "note" }, help),
    );
  }

  set(name, value) {
    this.options[name] = value;
    write(OPTIONS, this.options);
  }

  async load() {
    const draft = handedOver ?? read(DRAFT, null);
    handedOver = null;
    if (typeof draft === "string" && draft.trim()) this.editor.text = draft;
    try {
      this.known = (await api.examples()).filter((example) => example.kind === "scenario");
    } catch {
      this.known = [];
    }
    this.examples.append(
      ...this.known.map((example) => el("option", { value: example.name, title: example.title }, example.name)),
    );
    this.examples.hidden = this.known.length === 0;
    const first = this.known.find((example) => example.name === "coding") || this.known[0];
    if (!this.editor.text && first) this.editor.text = first.text;
  }

  example(name) {
    const found = this.known.find((example) => example.name === name);
    this.examples.value = "";
    if (!found) return;
    this.editor.text = found.text;
    announce(`Example ${found.name} loaded: ${found.title}`);
  }

  async open(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) {
      this.fail(`${file.name} has ${number(file.size)} bytes; a scenario has at most ${number(MOST_BYTES)}`);
    } else {
      this.editor.text = await file.text();
      announce(`${file.name} loaded`);
    }
    this.file.value = ""; // the same file can be opened again
  }

  changed() {
    write(DRAFT, this.editor.text);
    this.checked = null;
    clearTimeout(this.timer);
    this.check?.abort();
    this.trouble.hidden = true;
    this.timer = setTimeout(() => this.validate(), DELAY_MS);
  }

  /** Ask the server what it makes of the text; resolves to whether it is a valid scenario. */
  async validate() {
    clearTimeout(this.timer);
    this.check?.abort();
    const check = new AbortController();
    const text = this.editor.text;
    this.check = check;
    if (!text.trim()) {
      this.say("empty", "", []);
      return false;
    }
    try {
      const answer = await api.validate(text, check.signal);
      if (check.signal.aborted) return false;
      this.checked = answer.valid ? text : null;
      const problems = answer.errors.length;
      this.say(answer.valid ? "valid" : "invalid", answer.valid ? "valid" : count(problems, "error"), answer.errors);
      if (answer.valid) {
        this.scenario = answer.scenario;
        fill(this.summary, summary(answer.scenario));
      }
      return answer.valid;
    } catch (problem) {
      if (problem.name === "AbortError") return false;
      this.say(
        "unknown",
        "not checked",
        problem.errors?.length ? problem.errors : [{
          detail: problem.message,
          line: problem.line,
          field: problem.field,
        }],
      );
      return false;
    }
  }

  say(kind, text, errors) {
    this.verdict.className = `verdict ${kind}`;
    this.verdict.textContent = text;
    this.editor.mark(kind === "unknown" ? [] : errors);
    this.summary.classList.toggle("stale", kind !== "valid");
    fill(
      this.errors,
      errors.map((error) =>
        el(
          "li",
          {},
          error.line ? el(
            "button",
            { type: "button", class: "link", on: { click: () => this.editor.goTo(error.line) } },
            `line ${error.line}`,
          ) : null,
          error.field && el("code", {}, error.field),
          el("span", {}, error.detail),
        ),
      ),
    );
    if (kind === "invalid") announce(
      `${count(errors.length, "error")}. ${errors[0].line ? `Line ${errors[0].line}: ` : ""}${errors[0].detail}`,
    );
    else if (kind === "valid") announce("The scenario is valid.");
  }

  fail(text) {
    this.trouble.textContent = text;
    this.trouble.hidden = false;
  }

  async run(kind) {
    if (this.running) return;
    const query = this.query(kind);
    if (query === null) return;
    this.running = true;
    this.trouble.hidden = true;
    for (const button of [this.planButton, this.compareButton]) button.setAttribute("aria-disabled", "true");
    try {
      if (this.checked !== this.editor.text && !(await this.validate())) {
        this.fail(
          this.verdict.classList.contains("unknown")
            ? "The scenario could not be checked; the reason is below the text."
            : "The scenario has errors; they are listed below the text.",
        );
        const first = this.errors.querySelector("button");
        if (first) first.focus();
        return;
      }
      const text = this.editor.text;
      const job = await api.submit(kind, text, query);
      remember({
        id: job.id,
        kind,
        label: labelOf(this.scenario),
        of: objective(this.scenario.objective, this.scenario),
        status: job.status,
        created_at: job.created_at,
        time_limit_s: query.time_limit_s,
        text,
      });
      location.hash = `#/${kind}/${job.id}`;
    } catch (problem) {
      this.fail(problem.field ? `${problem.field}: ${problem.message}` : problem.message);
    } finally {
      this.running = false;
      for (const button of [this.planButton, this.compareButton]) button.removeAttribute("aria-disabled");
    }
  }

  query(kind) {
    const gap = Number(this.options.gap);
    const limit = Number(this.options.time_limit_s);
    if (!(gap > 0 && gap < 100)) {
      this.fail("Gap: a number of percent above 0 and below 100");
      return null;
    }
    if (!(limit > 0)) {
      this.fail("Time limit: a positive number of seconds");
      return null;
    }
    const query = { gap: gap / 100, time_limit_s: limit };
    return kind === "plans" ? { ...query, explain: this.options.what_if ? "what_if" : "binding" } : query;
  }
}

/** A scenario in words, defaults included. */
function summary(scenario) {
  return el(
    "div",
    { class: "summary" },
    scenario.cluster.pools.map((pool) =>
      facts([
        [
          pool.name,
          [
            `${number(pool.count)} × ${pool.gpu}`,
            pool.cost_per_gpu_hour && `, ${number(pool.cost_per_gpu_hour)} per GPU and hour`,
          ],
        ],
      ]),
    ),
    scenario.services.map((service) =>
      el(
        "div",
        { class: "asked" },
        el("h3", {}, service.name),
        facts([
          ["model", `${service.model}, ${service.precision} weights, ${service.kv_cache_dtype || "default"} KV`],
          ["engine", service.engine],
          ["requests", requests(service)],
          ["limits", limits(service.slo)],
          [
            "modes",
            [
              service.modes.map((mode) => MODES[mode] || mode).join(", "),
              service.launchable && " (only what the engine can launch)",
            ],
          ],
        ]),
      ),
    ),
    facts([["objective", objective(scenario.objective).aim]]),
  );
}

/** `coding on 128 b200`. */
export function labelOf(scenario) {
  const services = scenario.services.map((service) => service.name);
  const pools = scenario.cluster.pools.map((pool) => `${number(pool.count)} ${pool.name}`);
  const short = (names) => (
    names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", ")
  );
  return `${short(services)} on ${short(pools)}`;
}

function requests(service) {
  const work = service.workload;
  if (typeof work !== "object" || work === null) return String(work);
  const tokens = (value) => (
    typeof value === "number" ? number(value) : value.mean ? `about ${number(value.mean)}` : "varying"
  );
  const parts = [
    work.prefix_tokens ? `${tokens(work.prefix_tokens)} cached` : null,
    `${tokens(work.input_tokens)} new`,
    `${tokens(work.output_tokens)} output tokens`,
  ].filter(Boolean);
  return `${parts.join(" + ")}${service.demand_rps ? `; ${number(service.demand_rps)} requests/s` : ""}`;
}

function limits(slo) {
  const parts = [
    slo.ttft_ms !== null && slo.ttft_ms !== undefined ? `TTFT ≤ ${number(slo.ttft_ms)} ms` : null,
    slo.tpot_ms !== null && slo.tpot_ms !== undefined ? `TPOT ≤ ${number(slo.tpot_ms)} ms` : null,
  ].filter(Boolean);
  return parts.length ? `${parts.join(", ")} (${slo.statistic})` : "none";
}

function read(key, otherwise) {
  try {
    const text = localStorage.getItem(key);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // storage full or switched off: nothing is kept over a reload
  }
}
