// A pre-tokenizer's pattern (Oniguruma's spelling) as a regular expression of JavaScript that finds the same.
//
// Only what tokenizers are known to use is read; anything else is refused by name, since a pattern that is nearly the
// same gives other tokens in silence.
import { EdgekitError } from "./errors.js";
import { WHITE_SPACE } from "./unicode.js";

const CATEGORY = /^(L[ultmo&]?|LC|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfson]?)$/;
// What JavaScript's flag i with u would do for (?i:...), which older browsers do not read: Unicode's simple folding.
/** @type {Record<string, string>} */
const FOLDED = { s: "sS\\u017f", k: "kK\\u212a" };
/** @type {Record<string, string>} */
const CLASSES = { s: WHITE_SPACE, d: "\\p{Nd}", w: "\\p{L}\\p{M}\\p{Nd}\\p{Pc}", h: "0-9a-fA-F" };

/**
 * @param {string} source
 * @returns {RegExp} With the flags g and u.
 */
export function compilePattern(source) {
  const reader = new Reader(source);
  const body = reader.alternatives();
  if (reader.at < source.length) reader.refuse("an unmatched )");
  return new RegExp(body, "gu");
}

/**
 * The pattern that finds a text itself.
 * @param {string} text
 */
export const literalPattern = (text) => new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");

class Reader {
  /** @param {string} source */
  constructor(source) {
    this.source = source;
    this.at = 0;
    this.folds = false;
  }

  /**
   * @param {string} what
   * @returns {never}
   */
  refuse(what) {
    throw new EdgekitError(`The tokenizer's pattern ${JSON.stringify(this.source)} is not supported.`, {
      why: `It holds ${what}, at character ${this.at}.`,
      fix: "Run this bundle where the tokenizers library is, with edgekit run.",
      code: "unsupported",
    });
  }

  alternatives() {
    let out = "";
    while (this.at < this.source.length && this.source[this.at] !== ")") {
      const character = this.next();
      if (character === "|") out += "|";
      else out += this.atom(character) + this.quantifier();
    }
    return out;
  }

  next() {
    const character = String.fromCodePoint(/** @type {number} */ (this.source.codePointAt(this.at)));
    this.at += character.length;
    return character;
  }

  /** @param {string} character */
  atom(character) {
    if (character === "(") return this.group();
    if (character === "[") return this.class();
    if (character === "\\") return this.escape(false);
    if (character === ".") return "[^\\n]";
    if ("^$*+?{".includes(character)) this.refuse(`${character} outside of a class`);
    return this.literal(character);
  }

  /** @param {string} character */
  literal(character) {
    if (this.folds && /[a-z]/i.test(character)) {
      const low = character.toLowerCase();
      return `[${FOLDED[low] ?? low + low.toUpperCase()}]`;
    }
    if (this.folds && character.codePointAt(0) !== undefined && /** @type {number} */ (character.codePointAt(0)) > 127) {
      this.refuse("a letter beyond ASCII in (?i:");
    }
    return /[\\^$.*+?()[\]{}|/]/.test(character) ? `\\${character}` : character;
  }

  group() {
    const kind = /^\?(?:i:|:|=|!|<=|<!)/.exec(this.source.slice(this.at))?.[0] ?? "";
    if (!kind && this.source[this.at] === "?") this.refuse(`(${this.source.slice(this.at, this.at + 3)}`);
    this.at += kind.length;
    const before = this.folds;
    this.folds ||= kind === "?i:";
    const body = this.alternatives();
    this.folds = before;
    if (this.source[this.at] !== ")") this.refuse("a ( without its )");
    this.at++;
    return `(${kind === "?i:" || !kind ? "?:" : kind}${body})`;
  }

  class() {
    if (this.folds) this.refuse("a class in (?i:");
    let out = "[";
    if (this.source[this.at] === "^") out += this.next();
    for (let first = true; ; first = false) {
      if (this.at >= this.source.length) this.refuse("a [ without its ]");
      const character = this.next();
      if (character === "]" && !first) return `${out}]`;
      if (character === "[" || character === "]") this.refuse("a class in a class");
      if (character === "&" && this.source[this.at] === "&") this.refuse("&&");
      if (character === "\\") out += this.escape(true);
      else out += /[\\^$.*+?()[\]{}|/]/.test(character) ? `\\${character}` : character;
    }
  }

  /** @param {boolean} inside A class. */
  escape(inside) {
    if (this.at >= this.source.length) this.refuse("a \\ at its end");
    const character = this.next();
    const low = character.toLowerCase();
    if (character === "p" || character === "P") return this.property(character);
    if (low in CLASSES) {
      if (character === low) return inside ? CLASSES[low] : `[${CLASSES[low]}]`;
      if (inside) this.refuse(`\\${character} in a class`);
      return `[^${CLASSES[low]}]`;
    }
    if ("nrtfv".includes(character)) return `\\${character}`;
    const code = character === "u" ? /^[0-9a-fA-F]{4}/ : character === "x" ? /^[0-9a-fA-F]{2}/ : null;
    const digits = code?.exec(this.source.slice(this.at))?.[0];
    if (digits) {
      this.at += digits.length;
      return `\\u${digits.padStart(4, "0")}`;
    }
    if (/[a-zA-Z0-9]/.test(character)) this.refuse(`\\${character}`);
    if (inside && character === "-") return "\\-";
    return /[\\^$.*+?()[\]{}|/]/.test(character) ? `\\${character}` : character;
  }

  /** @param {string} letter */
  property(letter) {
    const found = /^\{(\^?)([A-Za-z_&]+)\}/.exec(this.source.slice(this.at));
    if (!found || !CATEGORY.test(found[2])) this.refuse(`\\${letter}${this.source.slice(this.at, this.at + 8)}`);
    this.at += found[0].length;
    const negative = (letter === "P") !== (found[1] === "^");
    return `\\${negative ? "P" : "p"}{${found[2] === "L&" ? "LC" : found[2]}}`;
  }

  quantifier() {
    const found = /^(?:[*+?]|\{\d+(?:,\d*)?\})/.exec(this.source.slice(this.at))?.[0] ?? "";
    this.at += found.length;
    if (!found) return "";
    if (this.source[this.at] === "+") this.refuse("a possessive quantifier");
    if (this.source[this.at] !== "?") return found;
    if (found.startsWith("{")) this.refuse("? behind {}");
    this.at++;
    return `${found}?`;
  }
}
