// Whether this device gives what the bundle was proved to give: strings, pictures, prompts and answers of golden/.
import { Conversation } from "./engine.js";
import { EdgekitError, checkAborted } from "./errors.js";
import { sha256 } from "./sha256.js";

/** @typedef {import("./types.js").SelfTest} SelfTest */
/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./resize.js").Picture} Picture */
/** @typedef {{name: string, count: number, passed: boolean, failures: string[]}} Check */

/** Two logits as near as this may change places between two correct back-ends; such an answer is no failure. */
export const NEAR = 0.02;

/**
 * @param {Engine} engine
 * @param {(path: string) => Promise<Uint8Array>} read A file of the bundle.
 * @param {{decode?: (file: Blob) => Promise<Picture>, onProgress?: (done: number, total: number) => void, signal?: AbortSignal,
 *   only?: string[], most?: number}} [options] decode: how this platform reads picture files; only: names of checks;
 *   most: answers.
 * @returns {Promise<SelfTest>}
 */
export async function selfTest(engine, read, { decode, onProgress, signal, only, most = Infinity } = {}) {
  const started = performance.now();
  const golden = new Golden(engine, read, decode ?? null, most);
  await golden.load();
  /** @type {[string, () => Promise<[string, boolean][]>][]} */
  const all = [
    ["strings", () => golden.strings()],
    ["files", () => golden.files()],
    ["pixels", () => golden.pixels()],
    ["prompts", () => golden.prompts()],
    ["answers", () => golden.answers(signal)],
    ["chat", () => golden.chat(signal)],
  ];
  const chosen = all.filter(([name]) => !only || only.includes(name));
  /** @type {Check[]} */
  const checks = [];
  for (const [name, check] of chosen) {
    checkAborted(signal);
    const found = await check();
    const failures = found.filter(([, held]) => !held).map(([what]) => what);
    checks.push({ name, count: found.length, passed: !failures.length, failures: failures.slice(0, 10) });
    onProgress?.(checks.length, chosen.length);
  }
  // A bundle whose reference gave no answers proves nothing of a runtime.
  const passed = checks.every((check) => check.passed) && checks.some((check) => check.count > 0);
  return { passed, checks, ms: performance.now() - started };
}

class Golden {
  /** @param {Engine} engine @param {(path: string) => Promise<Uint8Array>} read
   * @param {((file: Blob) => Promise<Picture>) | null} decode @param {number} most */
  constructor(engine, read, decode, most) {
    this.engine = engine;
    this.read = read;
    this.decode = decode;
    this.most = most;
    /** @type {any} */
    this.file = null;
    /** @type {Map<string, Picture>} */
    this.pictures = new Map();
  }

  async load() {
    if (!this.engine.model.files.some((file) => file.path === "golden/golden.json")) {
      throw new EdgekitError("This bundle has no golden vectors, so nothing can be tested.", { code: "golden" });
    }
    this.file = JSON.parse(new TextDecoder().decode(await this.read("golden/golden.json")));
    if (this.file.format !== 1) throw new EdgekitError(`golden.json is of format ${this.file.format}, and this library reads 1.`);
    for (const one of this.file.pictures) {
      if (one.raw) this.pictures.set(one.name, { ...size(one), data: await this.read(`golden/${one.raw}`) });
    }
  }

  async strings() {
    const { tokenizer } = this.engine;
    return this.file.strings.map((/** @type {any} */ one) => {
      const ids = tokenizer.encode(one.text);
      const held = same(ids, runs(one.ids)) && tokenizer.decode(ids) === (one.decoded ?? one.text);
      return [JSON.stringify(one.text), held];
    });
  }

  /** Decoded by the browser; larger ones than have raw pixels are kept for the other checks. */
  async files() {
    /** @type {[string, boolean][]} */
    const found = [];
    for (const one of this.decode ? this.file.pictures : []) {
      const bytes = /** @type {any} */ (await this.read(`golden/${one.file}`));
      const picture = await /** @type {any} */ (this.decode)(new Blob([bytes], { type: `image/${one.file.split(".").at(-1)}` }));
      const held = picture.width === one.width && picture.height === one.height && (await sha256(picture.data)) === one.rgb_sha256;
      if (held && !this.pictures.has(one.name)) this.pictures.set(one.name, picture);
      found.push([one.file, held]);
    }
    return found;
  }

  async pixels() {
    const { family, model } = this.engine;
    /** @type {[string, boolean][]} */
    const found = [];
    for (const one of this.file.pictures) {
      const picture = this.pictures.get(one.name);
      if (!picture || !one.pixels || one.pixels.refused) continue;
      const { values, shape, count, grid } = family.preprocess(picture, model.preprocessing);
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      const held = same([count, ...shape], one.pixels.shape) && same(grid, one.pixels.grid) && (await sha256(bytes)) === one.pixels.sha256;
      found.push([one.name, held]);
    }
    return found;
  }

  async prompts() {
    /** @type {[string, boolean][]} */
    const found = [];
    for (const [number, one] of this.file.conversations.entries()) {
      const pictures = this.#pictures(one.pictures);
      if (!pictures || one.refused) continue;
      const { ids, positions, prompt, expanded } = this.engine.prepare(one.messages, pictures);
      const flat = BigInt64Array.from(positions.flat(), BigInt);
      const next = positions.flat().reduce((a, b) => Math.max(a, b), -1) + 1;
      const held =
        prompt === one.prompt && expanded === text(one.expanded) && same(ids, runs(one.ids)) && next === one.positions.next &&
        (await sha256(new Uint8Array(flat.buffer))) === one.positions.sha256;
      found.push([`conversation ${number}`, held]);
    }
    return found;
  }

  /** @param {AbortSignal | undefined} signal */
  async answers(signal) {
    /** @type {[string, boolean][]} */
    const found = [];
    const { single, max_new_tokens: maxNewTokens } = this.file.answers;
    for (const one of single) {
      const { messages, pictures: names } = this.file.conversations[one.conversation];
      const pictures = this.#pictures(names);
      if (!pictures || found.length >= this.most) continue;
      const said = await last(this.engine.answer(messages, pictures, { maxNewTokens, generation: "greedy", signal }));
      found.push([`conversation ${one.conversation}: ${JSON.stringify(said.text)}`, agrees(said, one)]);
    }
    return found;
  }

  /** Turns over a kept cache. @param {AbortSignal | undefined} signal */
  async chat(signal) {
    /** @type {[string, boolean][]} */
    const found = [];
    const talk = new Conversation(this.engine, { maxNewTokens: this.file.answers.max_new_tokens, generation: "greedy" });
    for (const [number, turn] of this.file.answers.chat.entries()) {
      const pictures = this.#pictures(turn.pictures);
      if (!pictures || this.most < Infinity) break;
      const said = await last(talk.say(turn.text, pictures, signal));
      const near = turn.answer.gap !== null && turn.answer.gap < NEAR;
      const cached = said.timings.cached_tokens;
      // A cache on the GPU cannot be cut, and is filled anew.
      const held = agrees(said, turn.answer) && (cached === turn.cached || cached === 0);
      found.push([`turn ${number}: ${JSON.stringify(said.text)}, ${cached} tokens kept`, held]);
      if (near) break; // what follows a near tie is another conversation
    }
    return found;
  }

  /** @param {string[]} names @returns {Picture[] | null} */
  #pictures(names) {
    const found = names.map((name) => this.pictures.get(name));
    return found.includes(undefined) ? null : /** @type {Picture[]} */ (found);
  }
}

/** @param {{width: number, height: number}} one */
const size = ({ width, height }) => ({ width, height });

/** @param {import("./types.js").Answer} said @param {any} wanted */
function agrees(said, wanted) {
  const ids = runs(wanted.ids);
  if (same(said.tokenIds, ids)) return said.text === wanted.text && said.finish === wanted.finish;
  return wanted.gap !== null && wanted.gap < NEAR;
}

/** Run-length lists written out: [x, n] stands for n times x. @param {(number | [number, number])[]} list @returns {number[]} */
export const runs = (list) => list.flatMap((one) => (Array.isArray(one) ? Array(one[1]).fill(one[0]) : [one]));

/** @param {(string | [string, number])[]} list */
const text = (list) => list.map((one) => (typeof one === "string" ? one : one[0].repeat(one[1]))).join("");

/** @param {readonly number[]} one @param {readonly number[]} other */
const same = (one, other) => one.length === other.length && one.every((value, at) => value === other[at]);

/**
 * The answer that a generator of events ends with.
 * @param {AsyncGenerator<import("./types.js").Event>} events
 * @returns {Promise<import("./types.js").Answer>}
 */
export async function last(events) {
  for await (const event of events) if (event.type === "done") return event;
  throw new EdgekitError("The answer ended without an end.");
}
