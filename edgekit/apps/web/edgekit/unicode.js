// White space written out: \s is not the same in JavaScript (which has U+FEFF and lacks U+0085), in Rust and in Python.

/** Unicode's White_Space, as the inside of a class: what \s is to the tokenizers library. */
export const WHITE_SPACE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

// Python's str.isspace adds the four separators of ASCII.
const PYTHON = `[${WHITE_SPACE}\\u001c-\\u001f]`;
const LEFT = new RegExp(`^${PYTHON}+`, "u");
const RIGHT = new RegExp(`${PYTHON}+$`, "u");

/** As Python's str.lstrip. @param {string} text */
export const stripStart = (text) => text.replace(LEFT, "");

/** As Python's str.rstrip. @param {string} text */
export const stripEnd = (text) => {
  let end = text.length; // by hand: a search for spaces at the end starts at each of them, and takes their square
  while (end && RIGHT.test(text[end - 1])) end--;
  return text.slice(0, end);
};

/** As Python's str.strip. @param {string} text */
export const strip = (text) => stripEnd(stripStart(text));

/** Half surrogate pairs become U+FFFD, as in every UTF-8 encoder. @param {string} text */
export const wellFormed = (text) => text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
