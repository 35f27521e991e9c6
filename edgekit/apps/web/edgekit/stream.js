// Tokens to text as they come: no broken characters, and stop strings that end an answer.

/** What a tokenizer writes for bytes that are no whole character yet. */
const UNFINISHED = "\ufffd";

/** Nothing that was shown has to be taken back: the pieces joined are the answer's text. */
export class TextStream {
  /**
   * @param {(ids: number[]) => string} decode White space at the end kept.
   * @param {readonly string[]} stops
   */
  constructor(decode, stops) {
    this.decode = decode;
    this.stops = stops.filter(Boolean);
    /** @type {number[]} */
    this.ids = [];
    this.shown = 0;
    this.text = "";
    this.stopped = false;
  }

  /**
   * @param {number} token
   * @returns {string} What is certain now and was not before.
   */
  push(token) {
    this.ids.push(token);
    this.text = this.decode(this.ids);
    const found = this.stops.map((stop) => this.text.indexOf(stop)).filter((place) => place >= 0);
    if (found.length) {
      this.stopped = true;
      this.text = this.text.slice(0, Math.min(...found));
      return this.#upto(this.text.length);
    }
    let end = this.text.length;
    while (end && this.text[end - 1] === UNFINISHED) end--;
    return this.#upto(end - this.#maybeStop(this.text.slice(0, end)));
  }

  /** What was held back, now that no token follows. */
  finish() {
    return this.#upto(this.text.length);
  }

  /** @param {number} end */
  #upto(end) {
    const piece = this.text.slice(this.shown, end);
    this.shown = Math.max(this.shown, end);
    return piece;
  }

  /** Length of the longest end of a text that a stop string begins with. @param {string} text */
  #maybeStop(text) {
    const longest = Math.max(0, ...this.stops.map((stop) => stop.length)) - 1;
    for (let size = Math.min(longest, text.length); size > 0; size--) {
      if (this.stops.some((stop) => stop.startsWith(text.slice(-size)))) return size;
    }
    return 0;
  }
}
