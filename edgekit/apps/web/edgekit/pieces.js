// From a text to the pieces that byte-pair encoding is done in: normalisers and pre-tokenizers of tokenizer.json.
import { refuse } from "./bpe.js";
import { compilePattern, literalPattern } from "./patterns.js";

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const ENCODER = new TextEncoder();

/** Each byte as a character that shows: GPT-2's table. @returns {string[]} */
function byteCharacters() {
  const shown = (/** @type {number} */ byte) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(shown(byte) ? byte : next++));
}

export const BYTE_TO_CHARACTER = byteCharacters();
/** @type {Map<string, number>} */
export const CHARACTER_TO_BYTE = new Map(BYTE_TO_CHARACTER.map((character, byte) => [character, byte]));

/**
 * @typedef {(text: string) => string} Normalise
 * @typedef {(pieces: string[]) => string[]} PreTokenise
 */

/**
 * @param {any} part Of tokenizer.json, null for none.
 * @returns {Normalise}
 */
export function normaliser(part) {
  if (!part) return (text) => text;
  if (["NFC", "NFD", "NFKC", "NFKD"].includes(part.type)) return (text) => text.normalize(part.type);
  if (part.type === "Prepend") return (text) => (text ? part.prepend + text : text);
  if (part.type === "Replace") {
    const pattern = patternOf(part.pattern);
    return (text) => text.replace(pattern, () => part.content);
  }
  if (part.type === "Sequence") {
    const steps = part.normalizers.map(normaliser);
    return (text) => steps.reduce((/** @type {string} */ given, /** @type {Normalise} */ step) => step(given), text);
  }
  return refuse(`a normaliser of type ${part.type}`);
}

/**
 * Splits what it is given further, each piece alone, so that a pattern's look-ahead ends with its piece.
 * @param {any} part Of tokenizer.json, null for none.
 * @returns {PreTokenise}
 */
export function preTokeniser(part) {
  if (!part) return (pieces) => pieces;
  if (part.type === "Sequence") {
    const steps = part.pretokenizers.map(preTokeniser);
    return (pieces) => steps.reduce((/** @type {string[]} */ given, /** @type {PreTokenise} */ step) => step(given), pieces);
  }
  if (part.type === "Digits") {
    const pattern = part.individual_digits ? /\p{N}/gu : /\p{N}+/gu;
    return (pieces) => pieces.flatMap((piece) => cut(piece, pattern, "Isolated", false));
  }
  if (part.type === "Split") {
    const pattern = patternOf(part.pattern);
    return (pieces) => pieces.flatMap((piece) => cut(piece, pattern, part.behavior, part.invert ?? false));
  }
  if (part.type === "ByteLevel") return byteLevel(part);
  return refuse(`a pre-tokenizer of type ${part.type}`);
}

/** @param {any} part @returns {PreTokenise} */
function byteLevel(part) {
  const pattern = part.use_regex === false ? null : compilePattern(GPT2);
  return (pieces) =>
    pieces.flatMap((piece) => {
      const text = part.add_prefix_space && !piece.startsWith(" ") ? ` ${piece}` : piece;
      const parts = pattern ? cut(text, pattern, "Isolated", false) : [text];
      return parts.map((one) => Array.from(ENCODER.encode(one), (byte) => BYTE_TO_CHARACTER[byte]).join(""));
    });
}

/** @param {{String?: string, Regex?: string}} pattern */
function patternOf(pattern) {
  if (typeof pattern.String === "string") return literalPattern(pattern.String);
  if (typeof pattern.Regex === "string") return compilePattern(pattern.Regex);
  return refuse(`a pattern ${JSON.stringify(pattern)}`);
}

/**
 * @param {string} text
 * @param {RegExp} pattern
 * @param {string} behavior As tokenizer.json names it.
 * @param {boolean} invert What does not match is what is split at.
 * @returns {string[]}
 */
function cut(text, pattern, behavior, invert) {
  /** @type {[string, boolean][]} Each with whether it is what is split at. */
  const found = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) found.push([text.slice(end, match.index), invert]);
    if (match[0]) found.push([match[0], !invert]);
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push([text.slice(end), invert]);
  return joined(found, behavior);
}

/** @param {[string, boolean][]} found @param {string} behavior @returns {string[]} */
function joined(found, behavior) {
  if (behavior === "Isolated") return found.map(([text]) => text);
  if (behavior === "Removed") return found.filter(([, matched]) => !matched).map(([text]) => text);
  /** @type {string[]} */
  const out = [];
  let last = /** @type {boolean | null} */ (null);
  if (behavior === "Contiguous" || behavior === "MergedWithPrevious") {
    for (const [text, matched] of found) {
      const joins = behavior === "Contiguous" ? matched === last : matched && last === false;
      if (joins) out[out.length - 1] += text;
      else out.push(text);
      last = matched;
    }
    return out;
  }
  if (behavior === "MergedWithNext") {
    for (const [text, matched] of found.toReversed()) {
      if (matched && last === false) out[0] = text + out[0];
      else out.unshift(text);
      last = matched;
    }
    return out;
  }
  return refuse(`a split of behaviour ${behavior}`);
}
