// What a user or a developer can put right. Anything else that is thrown is a fault of this library.

/** What failed, why, and what to do next. */
export class EdgekitError extends Error {
  /**
   * @param {string} what One line that names what failed, with the value.
   * @param {{why?: string, fix?: string, code?: string}} [more] code: a word for programs, such as "damaged".
   */
  constructor(what, { why = "", fix = "", code = "error" } = {}) {
    super([what, why, fix].filter(Boolean).join("\n  "));
    this.name = "EdgekitError";
    this.what = what;
    this.why = why;
    this.fix = fix;
    this.code = code;
  }
}

/**
 * An error as plain data, for a message between threads.
 * @param {unknown} error
 * @returns {{name: string, message: string, what: string, why: string, fix: string, code: string}}
 */
export function toPlain(error) {
  const own = /** @type {any} */ (error instanceof Error ? error : new Error(String(error)));
  const { name, message, what = message, why = "", fix = "", code = "" } = own;
  return { name, message, what, why, fix, code: typeof code === "string" ? code : "" };
}

/**
 * The error that `toPlain` was given, as near as can be.
 * @param {ReturnType<typeof toPlain>} plain
 * @returns {Error}
 */
export function fromPlain(plain) {
  if (plain.name === "AbortError") return new DOMException(plain.message, "AbortError");
  if (plain.name === "EdgekitError") return new EdgekitError(plain.what, plain);
  const error = new Error(plain.message);
  error.name = plain.name;
  return error;
}

/**
 * Throw what a signal was aborted with.
 * @param {AbortSignal | undefined} signal
 */
export function checkAborted(signal) {
  if (signal?.aborted) throw new DOMException("The answer was cancelled.", "AbortError");
}
