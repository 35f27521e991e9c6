// What an app calls: a model in a worker, answers as events. Types: index.d.ts.
import { transferable } from "./decode.js";
import { EdgekitError, fromPlain } from "./errors.js";

export { EdgekitError };

/** @typedef {import("./types.js").OpenOptions} OpenOptions */
/** @typedef {import("./types.js").AnswerOptions} AnswerOptions */
/** @typedef {import("./types.js").Event} Event */
/** @typedef {import("./types.js").ImageSource} ImageSource */
/** @typedef {import("./types.js").VisionModel} Model */

const LOAD_MS = 300000;
const STEP_MS = 300000;

/** @implements {Model} */
export class VisionModel {
  /** @param {Line} line @param {any} opened */
  constructor(line, opened) {
    this.line = line;
    /** @type {import("./types.js").ModelFile} */
    this.model = opened.model;
    /** @type {import("./types.js").RuntimeInfo} */
    this.runtime = opened.runtime;
    this.chats = 0;
  }

  /**
   * @param {string | URL} url Of the bundle's app/model.json.
   * @param {OpenOptions} [options]
   * @returns {Promise<VisionModel>}
   */
  static async open(url, { runtime = "auto", threads, ort, sha256, bytes, context, onProgress, signal, timeouts = {} } = {}) {
    await navigator.storage?.persist?.().catch(() => false); // or the browser may drop the model when space is short
    const line = new Line({ load: timeouts.load ?? LOAD_MS, step: timeouts.step ?? STEP_MS });
    const folder = new URL(ort ?? "../ort/", import.meta.url).href;
    const given = {
      url: new URL(url, document.baseURI).href, ort: folder.endsWith("/") ? folder : `${folder}/`, runtime, threads, sha256,
      bytes, context, loadMs: line.timeouts.load,
    };
    try {
      return new VisionModel(line, await line.ask("open", given, (event) => onProgress?.(event), signal));
    } catch (error) {
      line.end();
      throw error;
    }
  }

  /**
   * @param {string | import("./types.js").Message[]} question
   * @param {ImageSource | ImageSource[] | null} [images]
   * @param {AnswerOptions} [options]
   * @returns {AsyncGenerator<Event, void>}
   */
  async *answer(question, images, options = {}) {
    const { signal, ...rest } = options;
    yield* this.line.events("answer", { question, images: await sent(images), options: rest }, signal);
  }

  /** @param {AnswerOptions} [options] @returns {import("./types.js").Chat} */
  chat(options = {}) {
    const { signal: all, ...rest } = options;
    const chat = ++this.chats;
    const line = this.line;
    return {
      async *say(text, images, { signal = all } = {}) {
        yield* line.events("say", { chat, text, images: await sent(images), options: rest }, signal);
      },
    };
  }

  /** @param {{onProgress?: (progress: import("./types.js").Progress) => void, signal?: AbortSignal}} [options] */
  selfTest({ onProgress, signal } = {}) {
    return this.line.ask("selfTest", {}, (event) => onProgress?.(event), signal);
  }

  /** @param {{runs?: number, onProgress?: (progress: import("./types.js").Progress) => void, signal?: AbortSignal}} [options] */
  bench({ runs = 10, onProgress, signal } = {}) {
    return this.line.ask("bench", { runs }, (event) => onProgress?.(event), signal);
  }

  async memory() {
    const own = /** @type {any} */ (performance);
    if (crossOriginIsolated && own.measureUserAgentSpecificMemory) {
      return { bytes: (await own.measureUserAgentSpecificMemory()).bytes, how: "performance.measureUserAgentSpecificMemory" };
    }
    return null;
  }

  close() {
    this.line.end();
  }
}

/** Files of all bundles that this page has kept. @returns {Promise<number>} */
export const storedBytes = () => once("storedBytes");

/** Remove them. @returns {Promise<void>} */
export const clearStore = () => once("clearStore");

/** @param {string} ask */
async function once(ask) {
  const line = new Line({ load: LOAD_MS, step: STEP_MS });
  try {
    return await line.ask(ask, {}, () => {}, undefined);
  } finally {
    line.end();
  }
}

/** @param {ImageSource | ImageSource[] | null | undefined} images */
const sent = (images) => Promise.all((Array.isArray(images) ? images : images ? [images] : []).map(transferable));

/** The worker, and what it was asked. It is ended when it says nothing for too long: onnxruntime-web may hang. */
class Line {
  /** @param {{load: number, step: number}} timeouts Milliseconds. */
  constructor(timeouts) {
    this.timeouts = timeouts;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    /** @type {Map<number, {event: (event: any) => void, ok: (value: any) => void, fail: (error: Error) => void, ms: number}>} */
    this.waiting = new Map();
    this.asked = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.silence = undefined;
    this.ended = false;
    this.worker.onmessage = ({ data }) => this.#heard(data);
    this.worker.onerror = (event) => this.#fail(new EdgekitError("The library's worker ended.", { why: event.message, code: "worker" }));
  }

  /** @param {{id: number, event?: any, ok?: any, error?: any}} message */
  #heard({ id, event, error, ok }) {
    const one = this.waiting.get(id);
    if (one && event) one.event(event);
    else if (one) {
      this.waiting.delete(id);
      if (error) one.fail(fromPlain(error));
      else one.ok(ok);
    }
    this.#watch();
  }

  #watch() {
    clearTimeout(this.silence);
    if (!this.waiting.size) return;
    const ms = Math.max(...Array.from(this.waiting.values(), (one) => one.ms));
    this.silence = setTimeout(() => {
      this.end();
      this.#fail(new EdgekitError(`The runtime said nothing for ${ms / 1000} seconds, and was ended.`, {
        fix: "Open the model again; ask for one thread, or for wasm.",
        code: "timeout",
      }));
    }, ms);
  }

  /** @param {Error} error */
  #fail(error) {
    for (const one of this.waiting.values()) one.fail(error);
    this.waiting.clear();
  }

  /**
   * @param {string} ask
   * @param {any} given
   * @param {(event: any) => void} event
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<any>}
   */
  ask(ask, given, event, signal) {
    return new Promise((ok, fail) => {
      if (this.ended) return fail(new EdgekitError("This model is closed."));
      if (signal?.aborted) return fail(aborted());
      const id = ++this.asked;
      this.waiting.set(id, { event, ok, fail, ms: ask === "open" ? this.timeouts.load : this.timeouts.step });
      signal?.addEventListener("abort", () => {
        this.worker.postMessage({ ask: "cancel", given: id });
        if (!this.waiting.delete(id)) return;
        this.#watch();
        fail(aborted()); // at once; the worker stops at the end of what it is at
      }, { once: true });
      this.worker.postMessage({ id, ask, given });
      this.#watch();
    });
  }

  /**
   * @param {string} ask
   * @param {any} given
   * @param {AbortSignal | undefined} signal
   * @returns {AsyncGenerator<Event, void>}
   */
  async *events(ask, given, signal) {
    const own = new AbortController();
    const stop = () => own.abort();
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
    /** @type {Event[]} */
    const queue = [];
    let wake = () => {};
    let done = false;
    const asked = this.ask(ask, given, (event) => {
      queue.push(event);
      wake();
    }, own.signal).finally(() => {
      done = true;
      wake();
    });
    asked.catch(() => {}); // it is thrown below
    try {
      while (!done || queue.length) {
        if (queue.length) yield /** @type {Event} */ (queue.shift());
        else await new Promise((resolve) => (wake = () => resolve(undefined)));
        if (own.signal.aborted) break;
      }
      await asked;
    } finally {
      signal?.removeEventListener("abort", stop);
      if (!done) own.abort(); // the app left the loop
    }
  }

  end() {
    this.ended = true;
    clearTimeout(this.silence);
    this.worker.terminate();
    this.#fail(new EdgekitError("This model is closed."));
  }
}

const aborted = () => new DOMException("The answer was cancelled.", "AbortError");
