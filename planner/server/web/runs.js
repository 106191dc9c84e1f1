// The runs of this browser: what was asked, when, and how it ended. The results stay on the server.

import { announce, card, el, fill, table } from "./dom.js";
import { moment, STATUSES } from "./figures.js";

const KEY = "cleave.runs";
const KEPT = 50;
const KEPT_TEXT = 20_000; // characters of a scenario that are kept with its run

/** Runs, the newest first. */
export function runs() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) || "[]");
    return Array.isArray(found) ? found.filter((run) => run && typeof run.id === "string") : [];
  } catch {
    return [];
  }
}

/** The run of a job; undefined where another browser asked. */
export function runOf(id) {
  return runs().find((run) => run.id === id);
}

/** Remember a run, or what has become of it since. */
export function remember(run) {
  const known = runs();
  const before = known.find((each) => each.id === run.id);
  const text = run.text ?? before?.text;
  const merged = { ...before, ...run, text: text && text.length <= KEPT_TEXT ? text : undefined };
  save(before ? known.map((each) => (each.id === run.id ? merged : each)) : [merged, ...known].slice(0, KEPT));
}

function save(list) {
  try {
    localStorage.setItem(KEY, JSON.stringify(list));
  } catch {
    // storage full or switched off: the run still has its address
  }
}

export function statusPill(status) {
  return el("span", { class: `pill ${status}` }, STATUSES[status] || status);
}

/** The list of runs, or a line that there is none. */
export function runList(list) {
  if (!list.length) return el(
    "p",
    { class: "note" },
    "No runs yet. Each one will be listed here, with a link that can be shared.",
  );
  return table(
    "Runs of this browser",
    ["Run", "Asked", "Status", "Result", "Started"],
    list.map((run) => [
      el("a", { href: `#/${run.kind}/${run.id}` }, run.label || run.id),
      run.kind === "comparisons" ? "compare modes" : "plan",
      statusPill(run.status || "queued"),
      run.result || "–",
      moment(run.created_at),
    ]),
  );
}

/** The page of all runs. */
export function runsPage(page) {
  const body = el("div");
  const show = () => {
    const list = runs();
    fill(
      body,
      runList(list),
      list.length > 0 &&
        el(
          "div",
          { class: "actions" },
          el(
            "button",
            {
              type: "button",
              on: {
                click: () => {
                  save([]);
                  show();
                  announce("The list is empty.");
                },
              },
            },
            "Clear this list",
          ),
          el("span", { class: "note" }, "The server keeps the results; only the list in this browser is cleared."),
        ),
    );
  };
  fill(page, el("h1", { tabindex: -1 }, "Runs"), card("In this browser", { id: "runs-here" }, body));
  show();
  return { title: "Runs", stop() {} };
}
