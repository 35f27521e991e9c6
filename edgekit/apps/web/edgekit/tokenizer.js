// tokenizer.json read and applied as the tokenizers library does: byte-level BPE, and Gemma's BPE with byte fallback.
import { AddedTokens } from "./added.js";
import { Bpe, refuse } from "./bpe.js";
import { CHARACTER_TO_BYTE, normaliser, preTokeniser } from "./pieces.js";
import { wellFormed } from "./unicode.js";

const ENCODER = new TextEncoder();

export class Tokenizer {
  /** @param {any} file tokenizer.json, parsed. */
  constructor(file) {
    this.model = new Bpe(file.model);
    this.normalise = normaliser(file.normalizer);
    this.preTokenise = preTokeniser(file.pre_tokenizer);
    /** @type {import("./added.js").AddedToken[]} */
    const added = file.added_tokens ?? [];
    this.raw = new AddedTokens(added.filter((token) => !token.normalized), (text) => text);
    this.normalised = new AddedTokens(added.filter((token) => token.normalized), this.normalise);
    /** @type {string[]} */
    this.tokens = [];
    for (const [token, id] of this.model.vocab) this.tokens[id] = token;
    for (const token of added) this.tokens[token.id] = token.content;
    this.special = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.join = decoder(file.decoder);
  }

  /**
   * Ids of a text; tokens that are written in it are cut out as such, and none is added.
   * @param {string} text
   * @returns {number[]}
   */
  encode(text) {
    /** @type {number[]} */
    const ids = [];
    for (const outer of this.raw.split(wellFormed(text))) {
      if (outer.id !== null) {
        ids.push(outer.id);
        continue;
      }
      for (const span of this.normalised.split(this.normalise(outer.text))) {
        if (span.id !== null) ids.push(span.id);
        else for (const piece of this.preTokenise([span.text])) if (piece) ids.push(...this.model.encode(piece));
      }
    }
    return ids;
  }

  /**
   * Text of tokens, special ones left out.
   * @param {readonly number[]} ids
   */
  decode(ids) {
    const tokens = [];
    for (const id of ids) if (!this.special.has(id) && this.tokens[id] !== undefined) tokens.push(this.tokens[id]);
    return this.join(tokens);
  }
}

/**
 * @param {any} part Of tokenizer.json.
 * @returns {(tokens: string[]) => string}
 */
function decoder(part) {
  if (!part) return (tokens) => tokens.join(" ");
  const steps = (part.type === "Sequence" ? part.decoders : [part]).map(step);
  return (tokens) => steps.reduce((/** @type {string[]} */ given, /** @type {Step} */ one) => one(given), tokens).join("");
}

/** @typedef {(tokens: string[]) => string[]} Step */

/** @param {any} part @returns {Step} */
function step(part) {
  if (part.type === "ByteLevel") return fromBytes;
  if (part.type === "ByteFallback") return fromFallback;
  if (part.type === "Fuse") return (tokens) => [tokens.join("")];
  if (part.type === "Replace" && typeof part.pattern.String === "string") {
    return (tokens) => tokens.map((token) => token.replaceAll(part.pattern.String, () => part.content));
  }
  if (part.type === "Strip") return (tokens) => tokens.map((token) => stripped(token, part.content, part.start, part.stop));
  return refuse(`a decoder of type ${part.type}`);
}

/** @param {string[]} tokens @returns {string[]} */
function fromBytes(tokens) {
  /** @type {number[]} */
  const bytes = [];
  for (const token of tokens) {
    const own = Array.from(token, (character) => CHARACTER_TO_BYTE.get(character));
    // A token that no bytes made, such as an added one, stands for itself.
    for (const byte of own.includes(undefined) ? ENCODER.encode(token) : own) bytes.push(/** @type {number} */ (byte));
  }
  return [new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes))];
}

/** <0xE2> and the like, one after the other, are bytes of characters. @param {string[]} tokens @returns {string[]} */
function fromFallback(tokens) {
  /** @type {string[]} */
  const out = [];
  /** @type {number[]} */
  let bytes = [];
  const flush = () => {
    if (!bytes.length) return;
    try {
      out.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      out.push(...bytes.map(() => "\ufffd"));
    }
    bytes = [];
  };
  for (const token of tokens) {
    const hex = /^<0x([0-9a-fA-F]{2})>$/.exec(token);
    if (hex) bytes.push(parseInt(hex[1], 16));
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
}

/** @param {string} token @param {string} content @param {number} start @param {number} stop */
function stripped(token, content, start, stop) {
  const characters = Array.from(token);
  let from = 0;
  let to = characters.length;
  while (from < Math.min(start, to) && characters[from] === content) from++;
  for (let count = 0; count < stop && to > from && characters[to - 1] === content; count++) to--;
  return characters.slice(from, to).join("");
}
