// The page's pages, by the part of the address after `#`: so each can be shared, reloaded and gone back to.

import * as api from "./api.js";
import { fill } from "./dom.js";
import { count } from "./figures.js";
import { runPage } from "./run.js";
import { runsPage } from "./runs.js";
import { scenarioPage } from "./scenario.js";

const HEALTH_MS = 5_000;
const ROUTES = [
  [
    /^#\/(plans|comparisons)\/([0-9a-z]+)(?:\/([a-z_]+)(\/launchable)?)?$/u,
    (page, kind, id, mode, launchable) => runPage(page, kind, id, mode, Boolean(launchable)),
    "runs",
  ],
  [/^#\/runs$/u, (page) => runsPage(page), "runs"],
  [/^/u, (page) => scenarioPage(page), "scenario"],
];

const page = document.getElementById("page");
let current = null;

function show({ focus }) {
  current?.stop();
  fill(page);
  const [route, open, name] = ROUTES.find(([pattern]) => pattern.test(location.hash));
  current = open(page, ...(route.exec(location.hash) || []).slice(1));
  document.title = `${current.title} · Cleave`;
  for (const link of document.querySelectorAll("nav a[data-page]")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!focus) return;
  window.scrollTo(0, 0);
  page.querySelector("h1")?.focus({ preventScroll: true }); // those who listen hear which page they are on
}

/** Ask for the token; resolves to its text, or to null where the user will not give one. */
function askForToken(refused) {
  const dialog = document.getElementById("token");
  const input = document.getElementById("token-text");
  document.getElementById("token-why").textContent = refused
    ? "The server refused that token."
    : "It stays in this tab and is forgotten when the tab closes.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "use" && input.value ? input.value : null),
      { once: true },
    );
  });
}

// Several requests may be refused at once: one question is enough for all.
let asking = null;
api.onUnauthorized((refused) => (asking ??= askForToken(refused).finally(() => (asking = null))));

/** State of the server in words. */
function words({ version, busy, workers, queued }) {
  const work = busy ? `${busy} of ${count(workers, "worker")} busy` : "idle";
  return [version, work, queued ? `${queued} queued` : null].filter(Boolean).join(" · ");
}

async function health() {
  const banner = document.getElementById("banner");
  const state = await api.health();
  banner.hidden = state !== null;
  if (state === null) {
    banner.textContent = "The server cannot be reached. What is on this page stays; it will be tried again.";
  }
  document.getElementById("server").textContent = state?.version ? words(state) : "";
}

document.getElementById("skip").addEventListener("click", () => (page.querySelector("h1") || page).focus());
window.addEventListener("hashchange", () => show({ focus: true }));
// On paper nothing can be opened: open everything, then put it back.
window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not([open])")) each.open = each.dataset.printed = true;
});
window.addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details[data-printed]")) {
    each.open = false;
    delete each.dataset.printed;
  }
});
health();
setInterval(() => document.visibilityState === "visible" && health(), HEALTH_MS);
show({ focus: false });
