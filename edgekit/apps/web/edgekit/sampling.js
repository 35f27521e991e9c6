// Choosing a token from logits: greedy, or sampled by temperature, top-k and top-p as runtimes/sampling.py does it.
import { EdgekitError } from "./errors.js";

/**
 * @typedef {object} Sampling
 * @property {number} temperature 0 is greedy.
 * @property {number} topK So many tokens, and those as likely as the last of them; 0 for all.
 * @property {number} topP The smallest set of tokens that holds this share, in (0, 1].
 * @property {number} seed
 */

/**
 * The most likely token; the lowest id among equals.
 * @param {Float32Array} logits
 */
export function greedy(logits) {
  const best = argmax(logits);
  if (!Number.isFinite(logits[best])) {
    throw new EdgekitError("The model's logits are not finite.", {
      why: "Its weights hold NaN, or a value left the range of its precision (float16 ends at 65,504).",
      fix: "Try another runtime or precision.",
      code: "not-finite",
    });
  }
  return best;
}

/** As NumPy's: of NaN and numbers, the NaN. @param {Float32Array} logits */
export function argmax(logits) {
  let best = 0;
  for (let id = 0; id < logits.length; id++) {
    if (Number.isNaN(logits[id])) return id;
    if (logits[id] > logits[best]) best = id;
  }
  return best;
}

/**
 * @param {Sampling} sampling
 * @param {number} tokens Ids below this may be drawn.
 * @returns {(logits: Float32Array) => number}
 */
export function chooser(sampling, tokens) {
  const { temperature, topK, topP } = sampling;
  const whole = Number.isFinite(temperature) && Number.isInteger(topK) && topP > 0 && topP <= 1;
  if (!whole || temperature < 0 || topK < 0) {
    throw new EdgekitError("Sampling needs temperature >= 0, topP in (0, 1] and topK >= 0.", { code: "argument" });
  }
  if (temperature === 0) return argmax;
  const random = generator(sampling.seed);
  return (logits) => draw(shares(logits.subarray(0, tokens), sampling), random());
}

/**
 * The chance of each token to be drawn; their sum is 1.
 * @param {Float32Array} logits
 * @param {Sampling} sampling
 */
export function shares(logits, { temperature, topK, topP }) {
  const values = Float64Array.from(logits, (value) => value / temperature);
  if (topK > 0 && topK < values.length) {
    const least = values.toSorted()[values.length - topK];
    for (let id = 0; id < values.length; id++) if (values[id] < least) values[id] = -Infinity;
  }
  const most = values.reduce((one, other) => Math.max(one, other), -Infinity);
  for (let id = 0; id < values.length; id++) values[id] = Math.exp(values[id] - most);
  scale(values);
  if (topP < 1) {
    const order = Array.from(values.keys()).sort((one, other) => values[other] - values[one] || one - other);
    let before = 0; // a token stays while the share of those before it is below topP, so one always stays
    for (const id of order) {
      const own = values[id];
      if (before >= topP) values[id] = 0;
      before += own;
    }
    scale(values);
  }
  return values;
}

/** @param {Float64Array} values */
function scale(values) {
  const sum = values.reduce((one, other) => one + other, 0);
  for (let id = 0; id < values.length; id++) values[id] /= sum;
}

/** @param {Float64Array} chances @param {number} at In [0, 1). */
function draw(chances, at) {
  let sum = 0;
  let last = 0;
  for (let id = 0; id < chances.length; id++) {
    if (!chances[id]) continue;
    sum += chances[id];
    last = id;
    if (at < sum) return id;
  }
  return last;
}

/** Numbers in [0, 1) by a seed: SplitMix32. @param {number} seed */
function generator(seed) {
  let state = seed | 0;
  const next = () => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = state ^ (state >>> 16);
    mixed = Math.imul(mixed, 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  return () => (next() * 2 ** 21 + (next() >>> 11)) / 2 ** 53;
}
