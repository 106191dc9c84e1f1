// Numbers and names as people read them: the same rules as the terminal's.

export const MODES = {
  aggregated: "aggregated",
  prefill_decode: "prefill-decode",
  afd: "AFD",
  prefill_decode_afd: "prefill + AFD decode",
  mixed: "mixed modes",
};

export const STATUSES = {
  queued: "queued",
  running: "running",
  optimal: "optimal",
  feasible: "feasible",
  infeasible: "infeasible",
  time_limit: "nothing found in time",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
};

export const DIMENSIONS = { ttft: "TTFT", tpot: "TPOT", gpus: "GPUs", memory: "memory", network: "network" };

const UNITS = { throughput: "output tokens/s", cost: "per hour", gpus: "GPUs", power: "kW" };

/** Four significant digits, or all before the point: 17,232, 88, 4.25, 0.01235. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0 || size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  if (size < 1e-4) return Number(value.toPrecision(4)).toExponential().replace(/e-(\d)$/u, "e-0$1");
  if (size < 0.1) return String(Number(value.toPrecision(4)));
  const digits = size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4;
  return String(Number(value.toFixed(digits)));
}

/** A share of one: 0.0005 as 0.05%. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${number(share * 100)}%`;
}

/** A gap: what is left of rounding errors is none. */
export function gapText(gap) {
  if (gap === null || gap === undefined) return "–";
  return gap < 5e-7 ? "0%" : `${Number((gap * 100).toPrecision(2))}%`;
}

/** A time; number and unit are never parted at the end of a line. */
export function milliseconds(value) {
  return value === null || value === undefined ? "–" : `${number(value)}\u00a0ms`;
}

export function seconds(value) {
  return `${number(value < 100 ? Math.round(value * 10) / 10 : Math.round(value))}\u00a0s`;
}

/** `3 nodes`, `1 node`. */
export function count(value, noun, many = `${noun}s`) {
  return `${number(value)} ${value === 1 ? noun : many}`;
}

/**
 * What an objective asks for, its unit, and which way is better.
 *
 * @param {Object} of the objective.
 * @param {Object|null} scenario where it comes from: throughput is weighted where the services' worths differ from 1.
 */
export function objective(of, scenario = null) {
  const maximizing = Boolean(of.maximize);
  const quantity = of.maximize || of.minimize;
  const weighted = maximizing && (scenario?.services || []).some((service) => (service.weight ?? 1) !== 1);
  const unit = `${weighted ? "weighted " : ""}${UNITS[quantity] || quantity}`;
  return { maximizing, quantity, unit, aim: `${maximizing ? "maximize" : "minimize"} ${quantity}` };
}

/** The degrees of parallelism that are not 1, and the micro-batches: `tp2 dp4 ep8`. */
export function layout(pool) {
  const degrees = { tp: pool.tp, dp: pool.dp, ep: pool.ep, etp: pool.moe_tp, pp: pool.pp, mb: pool.microbatches };
  const words = Object.entries(degrees).filter(([, degree]) => degree > 1).map(([name, degree]) => `${name}${degree}`);
  return words.join(" ") || "tp1";
}

/** `0-7`, or `0-3, 6`. */
export function ranges(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const runs = [];
  for (const value of sorted) {
    const last = runs[runs.length - 1];
    if (last && value <= last[1] + 1) last[1] = value;
    else runs.push([value, value]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}

/** The day and time of an ISO instant, as the reader's clock has it. */
export function moment(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleString(
    undefined,
    { dateStyle: "medium", timeStyle: "short" },
  );
}
