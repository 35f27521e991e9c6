// What a model's own generation settings do to logits before a token is chosen: edgekit/generation.py, step for step.
//
// Source: transformers, generation/utils.py (_get_logits_processor) and generation/logits_process.py.
const f32 = Math.fround;

/**
 * @typedef {(logits: Float32Array, ids: readonly number[]) => void} Step Changes the logits in place.
 * @typedef {Record<string, any>} Settings By transformers' names.
 */

/**
 * The steps of one answer, in transformers' order.
 * @param {Settings} given
 * @param {readonly number[]} prompt
 * @param {number} limit Longest answer.
 * @param {readonly number[]} ends Tokens that end an answer.
 * @returns {Step[]}
 */
export function steps(given, prompt, limit, ends) {
  const size = prompt.length;
  const value = (/** @type {string} */ name, /** @type {any} */ none) => given[name] ?? none;
  /** @type {Step[]} */
  const found = [];
  const biases = value("sequence_bias", []);
  if (biases.length) found.push((logits, ids) => bias(biases, logits, ids));
  const encoder = value("encoder_repetition_penalty", 1);
  if (encoder !== 1) found.push((logits) => penalise(logits, prompt, 1 / encoder));
  const penalty = value("repetition_penalty", 1);
  if (penalty !== 1) found.push((logits, ids) => penalise(logits, ids, penalty));
  const repeats = value("no_repeat_ngram_size", 0);
  if (repeats) found.push((logits, ids) => noRepeat(repeats, ids, logits, ids));
  const copied = value("encoder_no_repeat_ngram_size", 0);
  if (copied) found.push((logits, ids) => noRepeat(copied, prompt, logits, ids));
  const words = value("bad_words_ids", []).filter((/** @type {number[]} */ word) => word.length > 1 || !ends.includes(word[0]));
  if (words.length) {
    const never = words.map((/** @type {number[]} */ word) => [word, -Infinity]);
    found.push((logits, ids) => bias(never, logits, ids));
  }
  return [...found, ...lengths(value, size, limit, ends)];
}

/**
 * @param {(name: string, none: any) => any} value
 * @param {number} size
 * @param {number} limit
 * @param {readonly number[]} ends
 * @returns {Step[]}
 */
function lengths(value, size, limit, ends) {
  /** @type {Step[]} */
  const found = [];
  const least = value("min_length", 0);
  if (least) found.push((logits, ids) => ids.length < least && without(logits, ends));
  const fresh = value("min_new_tokens", 0);
  if (fresh) found.push((logits, ids) => ids.length - size < fresh && without(logits, ends));
  const first = value("forced_bos_token_id", null);
  if (first !== null) found.push((logits, ids) => ids.length === 1 && only(logits, [first]));
  const last = listed(value("forced_eos_token_id", []));
  if (last.length) found.push((logits, ids) => ids.length === size + limit - 1 && only(logits, last));
  const decay = value("exponential_decay_length_penalty", null);
  if (decay) found.push((logits, ids) => decays(size + decay[0], decay[1], ends, logits, ids));
  const never = listed(value("suppress_tokens", []));
  if (never.length) found.push((logits) => without(logits, never));
  const notFirst = listed(value("begin_suppress_tokens", []));
  const begin = size > 1 || first === null ? size : size + 1;
  if (notFirst.length) found.push((logits, ids) => ids.length === begin && without(logits, notFirst));
  return found;
}

/** @param {number | number[]} value @returns {number[]} */
const listed = (value) => (Array.isArray(value) ? value : [value]);

/**
 * Logits of tokens that were seen divided by the penalty, negative ones multiplied, in single precision.
 * @param {Float32Array} logits
 * @param {readonly number[]} ids
 * @param {number} penalty
 */
export function penalise(logits, ids, penalty) {
  const by = f32(penalty);
  for (const id of new Set(ids)) if (id < logits.length) logits[id] = logits[id] < 0 ? logits[id] * by : logits[id] / by;
}

/** @param {[number[], number][]} biases @param {Float32Array} logits @param {readonly number[]} ids */
function bias(biases, logits, ids) {
  /** @type {Map<number, number>} */
  const sums = new Map();
  for (const [word, value] of biases) {
    const before = word.length - 1;
    const last = word[before];
    if (before > ids.length || last >= logits.length) continue;
    const start = ids.length - before;
    if (word.slice(0, before).every((id, place) => ids[start + place] === id)) {
      sums.set(last, f32((sums.get(last) ?? 0) + f32(value)));
    }
  }
  for (const [id, value] of sums) logits[id] += value;
}

/** Without what would end a run of `size` tokens that stands in `text` already.
 * @param {number} size @param {readonly number[]} text @param {Float32Array} logits @param {readonly number[]} ids */
function noRepeat(size, text, logits, ids) {
  if (ids.length < size || text.length < size) return;
  const start = ids.length + 1 - size;
  for (let at = 0; at + size <= text.length; at++) {
    let same = true;
    for (let place = 0; same && place < size - 1; place++) same = text[at + place] === ids[start + place];
    if (same) without(logits, [text[at + size - 1]]);
  }
}

/** @param {number} start @param {number} factor @param {readonly number[]} ends @param {Float32Array} logits
 * @param {readonly number[]} ids */
function decays(start, factor, ends, logits, ids) {
  if (ids.length <= start) return;
  const grown = f32(factor ** (ids.length - start) - 1);
  for (const id of ends) {
    if (id < logits.length && Number.isFinite(logits[id])) logits[id] += f32(Math.abs(logits[id]) * grown);
  }
}

/** @param {Float32Array} logits @param {readonly number[]} tokens */
function without(logits, tokens) {
  for (const id of tokens) if (id < logits.length) logits[id] = -Infinity;
}

/** @param {Float32Array} logits @param {readonly number[]} tokens */
function only(logits, tokens) {
  logits.fill(-Infinity);
  for (const id of tokens) if (id < logits.length) logits[id] = 0;
}
