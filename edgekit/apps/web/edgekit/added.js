// Tokens that are cut out of a text before anything else: the longest at the leftmost place, as an Aho-Corasick does it.
import { WHITE_SPACE } from "./unicode.js";

const SPACES_AT_END = new RegExp(`[${WHITE_SPACE}]*$`, "u");
const SPACES_AT_START = new RegExp(`^[${WHITE_SPACE}]*`, "u");
const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const WORD_AT_END = new RegExp(`${WORD}$`, "u");
const WORD_AT_START = new RegExp(`^${WORD}`, "u");

/**
 * @typedef {object} AddedToken As tokenizer.json has it.
 * @property {number} id
 * @property {string} content
 * @property {boolean} [single_word]
 * @property {boolean} [lstrip]
 * @property {boolean} [rstrip]
 * @property {boolean} [normalized]
 * @property {boolean} [special]
 */
/** @typedef {{text: string, id: number | null}} Span A token's id, or null for text that none was found in. */

export class AddedTokens {
  /** @param {AddedToken[]} tokens @param {(text: string) => string} normalise Of the contents. */
  constructor(tokens, normalise) {
    /** @type {Trie} */
    this.root = new Map();
    for (const token of tokens) {
      let node = this.root;
      for (const character of normalise(token.content)) {
        let below = node.get(character);
        if (!(below instanceof Map)) node.set(character, (below = new Map()));
        node = below;
      }
      if (node !== this.root) node.set("", token);
    }
  }

  /**
   * @param {string} text
   * @returns {Span[]}
   */
  split(text) {
    /** @type {Span[]} */
    const spans = [];
    if (!this.root.size) return text ? [{ text, id: null }] : [];
    let done = 0;
    for (let at = 0; at < text.length; ) {
      const found = this.#longest(text, at);
      if (!found) {
        at++;
        continue;
      }
      const token = found.token;
      let start = at;
      let stop = found.end;
      at = stop;
      if (token.single_word && (WORD_AT_END.test(text.slice(0, start)) || WORD_AT_START.test(text.slice(stop)))) continue;
      if (token.lstrip) start = Math.max(done, start - (SPACES_AT_END.exec(text.slice(done, start))?.[0].length ?? 0));
      if (token.rstrip) stop += SPACES_AT_START.exec(text.slice(stop))?.[0].length ?? 0;
      if (done < start) spans.push({ text: text.slice(done, start), id: null });
      spans.push({ text: text.slice(start, stop), id: token.id });
      done = stop;
    }
    if (done < text.length) spans.push({ text: text.slice(done), id: null });
    return spans;
  }

  /** @param {string} text @param {number} at */
  #longest(text, at) {
    let node = this.root;
    let found = null;
    for (let end = at; end < text.length; ) {
      const character = String.fromCodePoint(/** @type {number} */ (text.codePointAt(end)));
      const below = node.get(character);
      if (!(below instanceof Map)) break;
      node = below;
      end += character.length;
      const token = node.get("");
      if (token && !(token instanceof Map)) found = { token, end };
    }
    return found;
  }
}

/** @typedef {Map<string, Trie | AddedToken>} Trie */
