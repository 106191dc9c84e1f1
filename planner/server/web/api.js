// The HTTP API as the page uses it. Every call ends in a value or in one `Problem`.

const TOKEN = "cleave.token";
const RETRY_MS = 1000;
const STREAM_FAILURES = 3; // after so many broken streams in a row (a proxy that buffers them, say) the page polls

/** What went wrong, in the server's words where it has any. */
export class Problem extends Error {
  constructor({ detail, title, status = 0, field = null, line = null, errors = [] }) {
    super(detail || title || `the server answered ${status}`);
    this.status = status;
    this.field = field;
    this.line = line;
    this.errors = errors;
  }
}

let askForToken = async () => null;

/** Name the function that asks the user for a token: it resolves to the text, or to null. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

/** Whether requests carry a token, so that a plain link would be refused. */
export function hasToken() {
  return stored() !== null;
}

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null; // storage switched off: the token lives in memory alone
  }
}

let inMemory = null;

function remember(token) {
  inMemory = token;
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // kept in memory
  }
}

/** Address of an API path; relative to the page, so that the server may live below a prefix. */
export function address(path, query = {}) {
  const url = new URL(`v1/${path}`, document.baseURI.split("#")[0]);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
  }
  return url;
}

async function response(path, { query, signal, headers = {}, ...options } = {}) {
  for (;;) {
    const token = stored() ?? inMemory;
    let answer;
    try {
      answer = await fetch(address(path, query), {
        ...options,
        signal,
        cache: "no-store",
        headers: token === null ? headers : { ...headers, Authorization: `Bearer ${token}` },
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ detail: "the server cannot be reached" });
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      const given = await askForToken(token !== null);
      if (given === null) throw new Problem({ detail: "the server asks for a token", status: 401 });
      remember(given);
      continue;
    }
    throw new Problem({ status: answer.status, title: answer.statusText, ...(await problemOf(answer)) });
  }
}

async function problemOf(answer) {
  try {
    return await answer.json();
  } catch {
    return {};
  }
}

async function json(path, options) {
  return (await response(path, options)).json();
}

// A scenario goes as it was typed, so that the lines of an error are those of the editor.
const YAML = { "Content-Type": "application/yaml" };
const JSON_TYPE = { "Content-Type": "application/json" };

export const examples = () => json("examples").then((body) => body.examples);
export const targets = () => json("targets").then((body) => body.targets);
export const validate = (text, signal) => json(
  "scenarios/validate",
  { method: "POST", body: text, headers: YAML, signal },
);
export const placement = (plan) => json(
  "placement",
  { method: "POST", body: JSON.stringify(plan), headers: JSON_TYPE },
);
export const job = (kind, id, query, signal) => json(`${kind}/${encodeURIComponent(id)}`, { query, signal });
export const cancel = (kind, id) => json(`${kind}/${encodeURIComponent(id)}/cancel`, { method: "POST" });

/** State of the server; null where it does not answer. */
export async function health() {
  try {
    return await (await fetch(new URL("healthz", document.baseURI.split("#")[0]), { cache: "no-store" })).json();
  } catch {
    return null;
  }
}

/**
 * Ask a question. The key makes a repeated request, after a broken connection, the same job and no second one.
 *
 * @param {"plans"|"comparisons"} kind
 * @param {string} text a scenario.
 * @param {Object} query gap, time_limit_s and so on.
 */
export function submit(kind, text, query) {
  const key = Array.from(
    crypto.getRandomValues(new Uint8Array(16)),
    (byte) => byte.toString(16).padStart(2, "0"),
  ).join("");
  const options = {
    method: "POST",
    body: text,
    query: { wait_s: 0, ...query },
    headers: { ...YAML, "Idempotency-Key": key },
  };
  return json(kind, options).catch((problem) => {
    if (problem.status !== 0) throw problem;
    return json(kind, options);
  });
}

/** Launch files of a plan as a zip. */
export async function files(plan, target, engineVersion) {
  const answer = await response("render", {
    method: "POST",
    query: { target, engine_version: engineVersion },
    body: JSON.stringify(plan),
    headers: JSON_TYPE,
  });
  return answer.blob();
}

/** The report of a plan as one HTML file. */
export async function report(plan) {
  return (await response("report", { method: "POST", body: JSON.stringify(plan), headers: JSON_TYPE })).blob();
}

/**
 * Follow a job until it is finished, and return it.
 *
 * @param {"plans"|"comparisons"} kind
 * @param {string} id
 * @param {{progress: function(Object), status: function(Object), signal: AbortSignal}} listener
 */
export async function follow(kind, id, { progress, status, signal }) {
  let last = null;
  for (let failures = 0; failures < STREAM_FAILURES; ) {
    try {
      for await (const event of events(kind, id, last, signal)) {
        failures = 0;
        if (event.id !== null) last = event.id;
        if (event.type === "progress") progress(event.data);
        if (event.type === "status") {
          status(event.data);
          if (event.data.finished) return job(kind, id, {}, signal);
        }
      }
      failures += 1; // ended without an end
    } catch (error) {
      if (error.name === "AbortError" || final(error)) throw error;
      failures += 1;
    }
    await pause(RETRY_MS, signal);
  }
  return polled(kind, id, { progress, status, signal });
}

/** Whether asking again is of no use: the server answered, and not that it is busy. */
function final(problem) {
  return problem.status >= 400 && problem.status !== 429 && problem.status !== 503;
}

async function polled(kind, id, { progress, status, signal }) {
  let seen = -1;
  for (;;) {
    try {
      const found = await job(kind, id, {}, signal);
      for (const point of found.progress.history) {
        if (point.time_s > seen) progress(point);
        seen = Math.max(seen, point.time_s);
      }
      status(found);
      if (found.finished) return found;
    } catch (error) {
      if (error.name === "AbortError" || final(error)) throw error;
    }
    await pause(RETRY_MS, signal);
  }
}

// The stream is read with fetch: an EventSource could not carry the token.
async function* events(kind, id, last, signal) {
  const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
  const answer = await response(`${kind}/${encodeURIComponent(id)}/events`, { headers, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text = (text + value).replaceAll("\r\n", "\n");
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = parsed(text.slice(0, end));
        text = text.slice(end + 2);
        if (event !== null) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const event = { type: "message", id: null, data: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^([a-z]*):? ?(.*)$/.exec(line) || [];
    if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
    else if (name === "data") event.data += value;
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null; // a comment keeps the connection open
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}
