// What a plan can be taken away as: itself, launch files, a report.

import * as api from "./api.js";
import { announce, card, el } from "./dom.js";

const TARGETS = {
  vllm: ["vLLM", "launch scripts"],
  sglang: ["SGLang", "launch scripts"],
  trtllm: ["TensorRT-LLM", "launch scripts and engine YAML"],
  dynamo: ["Dynamo", "graph deployment"],
  "llm-d": ["llm-d", "Helm values"],
  lws: ["LeaderWorkerSet", "Kubernetes manifests"],
  kserve: ["KServe", "inference service"],
  slurm: ["Slurm", "sbatch scripts"],
  ray: ["Ray Serve", "LLM config"],
  skypilot: ["SkyPilot", "task YAML"],
  terraform: ["Terraform", "node pool variables"],
};

/**
 * The ways to take a plan away.
 *
 * @param {Object} plan
 * @param {string} name of the files, without an ending.
 * @param {string|null} reportHref where the report can be opened, where the plan has an address.
 */
export function downloadView(plan, name, reportHref) {
  const version = el(
    "input",
    { id: "engine-version", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "newest known" },
  );
  const trouble = el("p", { class: "trouble", role: "alert", hidden: true });
  const targets = el("ul", { class: "targets" });
  const busy = async (button, work, what) => {
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    trouble.hidden = true;
    try {
      await work();
      announce(`${what} downloaded`);
    } catch (problem) {
      trouble.textContent = `${what}: ${problem.message}`;
      trouble.hidden = false;
    } finally {
      button.removeAttribute("aria-disabled");
    }
  };
  api
    .targets()
    .then((known) =>
      targets.append(
        ...known.map((target) => {
          const [title, what] = TARGETS[target] || [target, "launch files"];
          const button = el(
            "button",
            {
              type: "button",
              "data-target": target,
              on: {
                click: () => busy(
                  button,
                  async () => save(await api.files(plan, target, version.value.trim()), `${name}-${target}.zip`),
                  title,
                ),
              },
            },
            el("b", {}, title),
            el("span", {}, what),
          );
          return el("li", {}, button);
        }),
      ),
    )
    .catch((problem) => {
      trouble.textContent = `Launch files: ${problem.message}`;
      trouble.hidden = false;
    });
  const json = el(
    "button",
    {
      type: "button",
      class: "primary",
      on: {
        click: () => save(new Blob([JSON.stringify(plan, null, 2)], { type: "application/json" }), `${name}.json`),
      },
    },
    "plan.json",
  );
  const report = el(
    "button",
    {
      type: "button",
      on: { click: () => busy(report, async () => save(await api.report(plan), `${name}.html`), "Report") },
    },
    "Report (HTML)",
  );
  return card(
    "Take it away",
    { id: "download", class: "no-print" },
    el(
      "div",
      { class: "actions" },
      json,
      report,
      // A plain link carries no token.
      reportHref && !api.hasToken() && el(
        "a",
        { href: reportHref, target: "_blank", rel: "noopener" },
        "Open the report",
      ),
    ),
    el("h3", {}, "Launch files"),
    targets,
    el("div", { class: "field inline" }, el("label", { for: "engine-version" }, "Engine version"), version),
    trouble,
  );
}

/** Save a blob under a name, through a link that exists for a moment. */
function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
