// Byte-pair encoding over token ids: what the tokenizers library does in Word::merge_all and BPE::merge_word.
import { EdgekitError } from "./errors.js";

const ENCODER = new TextEncoder();

/**
 * @typedef {object} BpeModel As tokenizer.json has it.
 * @property {string} type
 * @property {Record<string, number>} vocab
 * @property {(string | [string, string])[]} merges
 * @property {string | null} [unk_token]
 * @property {string | null} [continuing_subword_prefix]
 * @property {string | null} [end_of_word_suffix]
 * @property {boolean} [fuse_unk]
 * @property {boolean} [byte_fallback]
 * @property {boolean} [ignore_merges]
 * @property {number | null} [dropout]
 */

export class Bpe {
  /** @param {BpeModel} model */
  constructor(model) {
    if (model.type !== "BPE") refuse(`a model of type ${model.type}`);
    for (const field of /** @type {const} */ (["continuing_subword_prefix", "end_of_word_suffix", "dropout"])) {
      if (model[field]) refuse(`${field} ${JSON.stringify(model[field])}`);
    }
    /** @type {Map<string, number>} */
    this.vocab = new Map(Object.entries(model.vocab));
    this.size = 1 + Math.max(-1, ...chunks([...this.vocab.values()]));
    this.unknown = model.unk_token ?? null;
    this.fuses = model.fuse_unk ?? false;
    this.fallsBack = model.byte_fallback ?? false;
    this.ignoresMerges = model.ignore_merges ?? false;
    this.merges = this.#read(model.merges);
    /** @type {Map<string, number[]>} */
    this.known = new Map();
  }

  /**
   * (left, right) as one number -> [rank, merged id].
   * @param {(string | [string, string])[]} merges
   */
  #read(merges) {
    /** @type {Map<number, [number, number]>} */
    const found = new Map();
    merges.forEach((merge, rank) => {
      const [left, right] = typeof merge === "string" ? split(merge) : merge;
      const ids = [left, right, left + right].map((token) => this.vocab.get(token));
      if (ids.includes(undefined)) {
        throw new EdgekitError("tokenizer.json is damaged.", {
          why: `The merge of ${JSON.stringify(left)} and ${JSON.stringify(right)} is of tokens that it does not have.`,
          code: "damaged",
        });
      }
      const [a, b, whole] = /** @type {number[]} */ (ids);
      found.set(a * this.size + b, [rank, whole]);
    });
    return found;
  }

  /**
   * Ids of one piece of text.
   * @param {string} piece
   * @returns {number[]}
   */
  encode(piece) {
    const whole = this.ignoresMerges ? this.vocab.get(piece) : undefined;
    if (whole !== undefined) return [whole];
    let ids = this.known.get(piece);
    if (!ids) {
      ids = this.#merge(this.#symbols(piece));
      if (piece.length < 64 && this.known.size < 10000) this.known.set(piece, ids);
    }
    return ids;
  }

  /** @param {string} piece */
  #symbols(piece) {
    /** @type {number[]} */
    const ids = [];
    const unknown = this.unknown === null ? undefined : this.vocab.get(this.unknown);
    let pending = false; // an unknown character is added when it is known that no other is fused with it
    for (const character of piece) {
      const id = this.vocab.get(character);
      if (id !== undefined) {
        if (pending && unknown !== undefined) ids.push(unknown);
        pending = false;
        ids.push(id);
        continue;
      }
      const bytes = this.fallsBack ? this.#bytes(character) : null;
      if (bytes) {
        ids.push(...bytes);
        continue;
      }
      if (this.unknown === null) continue;
      if (unknown === undefined) refuse(`the unknown token ${JSON.stringify(this.unknown)}, which is no token`);
      if (pending && !this.fuses) ids.push(unknown);
      pending = true;
    }
    if (pending && unknown !== undefined) ids.push(unknown);
    return ids;
  }

  /** @param {string} character */
  #bytes(character) {
    const ids = [...ENCODER.encode(character)].map((byte) =>
      this.vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
    );
    return ids.includes(undefined) ? null : /** @type {number[]} */ (ids);
  }

  /**
   * The merge of lowest rank first, of equals the leftmost, until there is none.
   * @param {number[]} ids
   */
  #merge(ids) {
    const next = ids.map((_, place) => place + 1);
    const before = ids.map((_, place) => place - 1);
    const heap = new Heap();
    /** @param {number} place */
    const offer = (place) => {
      const right = next[place];
      const found = right < ids.length ? this.merges.get(ids[place] * this.size + ids[right]) : undefined;
      if (found) heap.push([found[0], place, found[1], ids[place], ids[right]]);
    };
    for (let place = 0; place < ids.length - 1; place++) offer(place);
    for (let top = heap.pop(); top; top = heap.pop()) {
      const [, place, whole, left, right] = top;
      const other = next[place];
      // What was offered may have been merged with something else since.
      if (ids[place] !== left || other >= ids.length || ids[other] !== right) continue;
      ids[place] = whole;
      ids[other] = -1;
      next[place] = next[other];
      if (next[other] < ids.length) before[next[other]] = place;
      if (before[place] >= 0) offer(before[place]);
      offer(place);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** Entries [rank, place, ...] by rank, then by place. */
class Heap {
  constructor() {
    /** @type {number[][]} */
    this.items = [];
  }

  /** @param {number[]} item */
  push(item) {
    const items = this.items;
    let place = items.push(item) - 1;
    while (place > 0) {
      const above = (place - 1) >> 1;
      if (!less(item, items[above])) break;
      items[place] = items[above];
      place = above;
    }
    items[place] = item;
  }

  pop() {
    const items = this.items;
    const top = items[0];
    const last = items.pop();
    if (!last || !items.length) return top;
    let place = 0;
    for (;;) {
      let below = 2 * place + 1;
      if (below >= items.length) break;
      if (below + 1 < items.length && less(items[below + 1], items[below])) below++;
      if (!less(items[below], last)) break;
      items[place] = items[below];
      place = below;
    }
    items[place] = last;
    return top;
  }
}

/** @param {number[]} one @param {number[]} other */
const less = (one, other) => one[0] < other[0] || (one[0] === other[0] && one[1] < other[1]);

/** @param {string} merge @returns {[string, string]} */
function split(merge) {
  const parts = merge.split(" ");
  if (parts.length !== 2) refuse(`a merge ${JSON.stringify(merge)}`);
  return [parts[0], parts[1]];
}

/** The largest of many numbers, a share at a time: a call has room for so many arguments only. @param {number[]} values */
function* chunks(values) {
  for (let at = 0; at < values.length; at += 8192) yield Math.max(...values.slice(at, at + 8192));
}

/**
 * @param {string} what
 * @returns {never}
 */
export function refuse(what) {
  throw new EdgekitError(`This tokenizer is not supported: it has ${what}.`, {
    why: "Byte-pair encoding is read here, over bytes or with byte fallback.",
    fix: "Run this bundle where the tokenizers library is, with edgekit run.",
    code: "unsupported",
  });
}
