// The library off the main thread: one model, one answer at a time. Speaks with index.js.
import { Conversation, Engine } from "./engine.js";
import { EdgekitError, toPlain } from "./errors.js";
import { question } from "./prompt.js";
import { decodePicture } from "./decode.js";
import { gpuProblem, loadRuntime, threadsFor, within } from "./runtime.js";
import { last, selfTest } from "./selftest.js";
import { Session } from "./session.js";
import { sha256 } from "./sha256.js";
import { Store } from "./store.js";
import { Tokenizer } from "./tokenizer.js";

/** @typedef {import("./types.js").ModelFile} ModelFile */
/** @typedef {import("./types.js").FileEntry} FileEntry */
/** @typedef {import("./runtime.js").Runtime} Runtime */

const TESTED = "edgekit-gpu-tests"; // a file of the store: which models' answers were right on this GPU
const GPU_ANSWERS = 6;

/** Lets messages in, such as that an answer is cancelled. @returns {Promise<void>} */
const breathe = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });

/** @type {Held | null} */
let held = null;
/** @type {Map<number, AbortController>} */
const running = new Map();
/** @type {Map<number, Conversation>} */
const chats = new Map();
let turn = Promise.resolve(); // one thing at a time

/**
 * A loaded bundle.
 * @typedef {object} Held
 * @property {ModelFile} model
 * @property {Engine} engine
 * @property {(path: string) => Promise<Uint8Array>} read
 * @property {Runtime} runtime
 */

onmessage = ({ data }) => {
  const { id, ask, given } = data;
  if (ask === "cancel") {
    running.get(given)?.abort();
    return;
  }
  const abort = new AbortController();
  running.set(id, abort);
  turn = turn.then(async () => {
    try {
      abort.signal.throwIfAborted();
      const ok = await ASKED[/** @type {keyof typeof ASKED} */ (ask)](given, abort.signal, (event) => postMessage({ id, event }));
      postMessage({ id, ok });
    } catch (error) {
      postMessage({ id, error: toPlain(error) });
    } finally {
      running.delete(id);
    }
  });
};

const ASKED = { open, answer, say, selfTest: test, bench, storedBytes, clearStore };

/** @typedef {(event: any) => void} Tell */

/**
 * @param {{url: string, ort: string, runtime: "auto" | "wasm" | "webgpu", threads?: number, sha256?: string, bytes?: number,
 *   context?: number | null, loadMs: number}} given
 * @param {AbortSignal} signal
 * @param {Tell} tell
 */
async function open(given, signal, tell) {
  const started = performance.now();
  const store = await Store.open();
  const model = await readModel(given, store, signal);
  model.context ??= given.context;
  if (model.target !== "onnx") {
    throw new EdgekitError(`A bundle of target ${model.target} does not run in a browser.`, {
      fix: "Export it with  --target onnx.",
      code: "unsupported",
    });
  }
  await store.checkRoom(model.files.filter((file) => file.for !== "golden"));
  const read = reader(store, model, given.url, signal, tell);
  // All of it, before anything is loaded; where nothing is kept, that would download it twice.
  for (const file of model.files) if (file.for === "model" && store.folder) await read(file.path);
  const json = async (/** @type {string} */ path) => JSON.parse(new TextDecoder().decode(await read(path)));
  const tokenizer = new Tokenizer(await json("tokenizer.json"));
  const prompt = await json("app/prompt.json");
  const { runtime, engine, why } = await choose(given, model, prompt, tokenizer, read, store, signal, tell);
  held = { model, engine, read, runtime };
  const name = runtime.onGpu ? "webgpu" : "wasm";
  const info = { name, threads: runtime.threads, isolated: globalThis.crossOriginIsolated, why, storage: store.kind };
  return { model, runtime: { ...info, load_ms: performance.now() - started, download_ms: store.waited } };
}

/**
 * @param {{url: string, sha256?: string, bytes?: number}} given
 * @param {Store} store
 * @param {AbortSignal} signal
 * @returns {Promise<ModelFile>}
 */
async function readModel({ url, sha256: hash, bytes: length }, store, signal) {
  const path = "app/model.json";
  const known = hash && length ? { path, url, sha256: hash, bytes: length, for: /** @type {const} */ ("text") } : null;
  const bytes = known ? await store.read(known, url, { signal }) : await fetchModel(url, hash, signal);
  const model = JSON.parse(new TextDecoder().decode(bytes));
  if (model.format !== 1) throw new EdgekitError(`app/model.json is of format ${model.format}, and this library reads 1.`, { code: "unsupported" });
  return model;
}

/** @param {string} url @param {string | undefined} wanted @param {AbortSignal} signal */
async function fetchModel(url, wanted, signal) {
  const answer = await fetch(url, { signal, cache: "no-cache" }).catch((error) => {
    throw new EdgekitError("Cannot download app/model.json.", { why: `${error}. Address: ${url}`, code: "network" });
  });
  if (!answer.ok) throw new EdgekitError(`Cannot download app/model.json: the server says ${answer.status}.`, { why: url, code: "network" });
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (wanted && (await sha256(bytes)) !== wanted) {
    throw new EdgekitError("app/model.json is not the one this app was written for.", { why: `Its SHA-256 differs. Address: ${url}`, code: "damaged" });
  }
  return bytes;
}

/**
 * @param {Store} store
 * @param {ModelFile} model
 * @param {string} base Address of model.json.
 * @param {AbortSignal} signal
 * @param {Tell} tell
 */
function reader(store, model, base, signal, tell) {
  const total = model.files.filter((file) => file.for !== "golden").reduce((sum, file) => sum + file.bytes, 0);
  /** @type {Map<string, number>} */
  const there = new Map();
  return async (/** @type {string} */ path) => {
    const file = model.files.find((one) => one.path === path);
    if (!file) throw new EdgekitError(`app/model.json does not list ${path}.`, { code: "damaged" });
    const onBytes = (/** @type {number} */ done) => {
      there.set(path, done);
      if (file.for === "golden") return;
      const sum = [...there].reduce((all, [, own]) => all + own, 0);
      tell({ type: "progress", phase: "download", done: Math.min(sum, total), total, file: path });
    };
    return store.read(file, new URL(file.url, base).href, { onBytes, signal: signal.aborted ? undefined : signal });
  };
}

/**
 * The runtime, and the engine on it.
 * @param {{ort: string, runtime: "auto" | "wasm" | "webgpu", threads?: number, loadMs: number}} given
 * @param {ModelFile} model
 * @param {any} prompt
 * @param {Tokenizer} tokenizer
 * @param {(path: string) => Promise<Uint8Array>} read
 * @param {Store} store
 * @param {AbortSignal} signal
 * @param {Tell} tell
 */
async function choose(given, model, prompt, tokenizer, read, store, signal, tell) {
  const { threads, why } = threadsFor(given.threads);
  const load = async (/** @type {"wasm" | "webgpu"} */ kind) => {
    const runtime = await loadRuntime(kind, given.ort, threads);
    const parts = Object.keys(model.components).length;
    let loaded = 0;
    const onLoaded = () => tell({ type: "progress", phase: "load", done: ++loaded, total: parts });
    const session = await within(given.loadMs, Session.open(runtime.ort, model, read, { ...runtime, onLoaded }), "The model is not loaded");
    return { runtime, engine: new Engine(model, prompt, tokenizer, session, breathe) };
  };
  if (given.runtime === "wasm") return { ...(await load("wasm")), why: `wasm, as asked; ${why}` };
  const problem = await gpuProblem();
  if (problem) return { ...(await load("wasm")), why: `wasm, since ${problem}; ${why}` };
  try {
    const own = await load("webgpu");
    const failed = await tryGpu(own.engine, model, read, store, signal, tell);
    if (!failed) return { ...own, why: "the GPU, which passed the self-test here" };
    await own.engine.session.release();
    return { ...(await load("wasm")), why: `wasm, since the GPU failed the self-test here (${failed}); ${why}` };
  } catch (error) {
    if (signal.aborted || (error instanceof EdgekitError && ["damaged", "network", "space", "unsupported"].includes(error.code))) throw error;
    return { ...(await load("wasm")), why: `wasm, since the GPU failed (${String(error).slice(0, 200)}); ${why}` };
  }
}

/**
 * What of the self-test failed on the GPU; "" for nothing. A model that passed once on this GPU and browser is believed.
 * @param {Engine} engine
 * @param {ModelFile} model
 * @param {(path: string) => Promise<Uint8Array>} read
 * @param {Store} store
 * @param {AbortSignal} signal
 * @param {Tell} tell
 */
async function tryGpu(engine, model, read, store, signal, tell) {
  const adapter = await (/** @type {any} */ (navigator).gpu.requestAdapter());
  const { vendor = "", architecture = "", device = "", description = "" } = adapter?.info ?? {};
  const files = model.files.map((file) => file.sha256).join();
  const key = await sha256(new TextEncoder().encode([vendor, architecture, device, description, navigator.userAgent, files].join("|")));
  const known = await store.note(TESTED);
  if (known.includes(key)) return "";
  const onProgress = (/** @type {number} */ done, /** @type {number} */ total) => tell({ type: "progress", phase: "self-test", done, total });
  const result = await selfTest(engine, read, { only: ["answers"], most: GPU_ANSWERS, onProgress, signal });
  const check = result.checks[0];
  if (!check.count) return "the bundle has no answers to compare with";
  if (!result.passed) return `${check.failures.length} of ${check.count} answers differ`;
  await store.setNote(TESTED, [...known, key].slice(-50));
  return "";
}

function loaded() {
  if (!held) throw new EdgekitError("No model is open.");
  return held;
}

/** @param {any[]} images */
const decoded = (images) => Promise.all(images.map(decodePicture));

/** @param {{question: string | import("./types.js").Message[], images: any[], options: import("./types.js").AnswerOptions}} given @param {AbortSignal} signal @param {Tell} tell */
async function answer({ question: text, images, options }, signal, tell) {
  const { engine } = loaded();
  const pictures = await decoded(images);
  const system = options.system ? [/** @type {const} */ ({ role: "system", content: [{ type: "text", text: options.system }] })] : [];
  const asked = typeof text === "string" ? [question(text, pictures.length)] : text;
  const messages = /** @type {import("./types.js").Message[]} */ ([...system, ...asked]);
  for await (const event of engine.answer(messages, pictures, { ...options, signal })) tell(event);
}

/** @param {{chat: number, text: string, images: any[], options: import("./types.js").AnswerOptions}} given @param {AbortSignal} signal @param {Tell} tell */
async function say({ chat, text, images, options }, signal, tell) {
  const { engine } = loaded();
  let talk = chats.get(chat);
  if (!talk) chats.set(chat, (talk = new Conversation(engine, options)));
  for await (const event of talk.say(text, await decoded(images), signal)) tell(event);
}

/** @param {unknown} given @param {AbortSignal} signal @param {Tell} tell */
async function test(given, signal, tell) {
  const { engine, read } = loaded();
  const onProgress = (/** @type {number} */ done, /** @type {number} */ total) => tell({ type: "progress", phase: "self-test", done, total });
  return selfTest(engine, read, { decode: decodePicture, onProgress, signal });
}

/** Golden answers one after the other, timed. @param {{runs: number}} given @param {AbortSignal} signal @param {Tell} tell */
async function bench({ runs }, signal, tell) {
  const { engine, read } = loaded();
  const golden = JSON.parse(new TextDecoder().decode(await read("golden/golden.json")));
  const asked = [];
  for (const one of golden.answers.single) {
    const { messages, pictures: names } = golden.conversations[one.conversation];
    const files = names.map((/** @type {string} */ name) => golden.pictures.find((/** @type {any} */ own) => own.name === name));
    if (!files.length || files.some((/** @type {any} */ file) => !file?.raw)) continue;
    const pictures = [];
    for (const { width, height, raw } of files) pictures.push({ width, height, data: await read(`golden/${raw}`) });
    asked.push({ id: `golden ${one.conversation}`, messages, pictures });
  }
  if (!asked.length) throw new EdgekitError("This bundle has no golden pictures to time.", { code: "golden" });
  const found = [];
  for (let run = -1; run < runs; run++) {
    const { id, messages, pictures } = asked[(run + asked.length) % asked.length];
    const said = await last(engine.answer(messages, pictures, { maxNewTokens: golden.answers.max_new_tokens, generation: "greedy", signal }));
    const { cached_tokens: _, ...timings } = said.timings;
    if (run >= 0) found.push({ ...timings, token_ids: said.tokenIds, id }); // the first warms up
    tell({ type: "progress", phase: "self-test", done: run + 1, total: runs });
  }
  return found;
}

async function storedBytes() {
  return (await Store.open()).bytes();
}

async function clearStore() {
  await (await Store.open()).clear();
}
