// Scales of a chart: where a value stands, and which values carry a tick.

const LOG_FROM = 20; // an axis is logarithmic where its largest value is this many times its smallest
const LEAST_SPAN = 0.002; // of its values: rounding errors are not stretched over the whole height

/** Whether values span so much that a linear axis would hide the small ones. */
export function needsLog(values) {
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= LOG_FROM;
}

/** A scale from values to 0..1, with ticks at round values. */
export class Axis {
  /**
   * @param {number[]} values what it must show; not empty.
   * @param {{log: boolean, zero: boolean, tight: boolean, ticks: number}} options `zero`: it begins at 0; `tight`: it
   *   ends with the values, else at a round value beyond them.
   */
  constructor(values, { log = false, zero = false, tight = false, ticks = 5 } = {}) {
    this.log = log;
    this.step = null; // between ticks; none on a log axis
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (zero) low = Math.min(0, low);
    const least = Math.max(Math.abs(low), Math.abs(high)) * LEAST_SPAN || 1;
    if (high - low < least) {
      const room = (least - (high - low)) / 2;
      high += zero ? 2 * room : room;
      if (!zero) low -= room;
    }
    if (log) {
      this.ticks = logTicks(low, high);
      this.low = Math.min(low, this.ticks[0]);
      this.high = Math.max(high, this.ticks[this.ticks.length - 1]);
    } else {
      const step = roundStep((high - low) / ticks);
      this.step = step;
      this.low = tight ? low : Math.floor(low / step) * step;
      this.high = tight ? high : Math.ceil(high / step) * step;
      this.ticks = [];
      for (let i = Math.ceil(this.low / step - 1e-9); i * step <= this.high * (1 + 1e-12) + step * 1e-9; i += 1) {
        this.ticks.push(Number((i * step).toPrecision(12)));
      }
    }
  }

  at(value) {
    if (this.log) return Math.log(value / this.low) / Math.log(this.high / this.low);
    return (value - this.low) / (this.high - this.low);
  }
}

function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
}

function logTicks(low, high) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) all.push(Number((factor * 10 ** power).toPrecision(3)));
  }
  const from = Math.max(0, all.findIndex((tick) => tick > low) - 1);
  const to = all.findIndex((tick) => tick >= high);
  return all.slice(from, to < 0 ? undefined : to + 1);
}
