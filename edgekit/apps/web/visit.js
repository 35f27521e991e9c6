// The page of `edgekit bench --device web`: it runs each bundle, proves it, asks the questions, and sends what came of it.
import { VisionModel, clearStore } from "./edgekit/index.js";
import { battery, memoryOf, modelName, watchPressure } from "./device.js";
import { $, failed, guarded, median, megabytes } from "./parts.js";

/** @typedef {import("./edgekit/types.js").VisionModel} Model */
/** @typedef {import("./edgekit/types.js").Message} Message */
/** @typedef {{name: string, precision: string, model: string, sha256: string, bytes: number, context: number | null, size: number}} Entry */
/** @typedef {{messages: Message[], pictures: {url: string, width: number, height: number}[]}} Question */
/** @typedef {{bundles: Entry[], questions: Question[], warmup: number, maxNewTokens: number, threads: number, backend: "auto" | "wasm"}} Task */

const BEAT_MS = 2000;
const MOST_WORD = 300;
const SILENT = 10; // beats that may fail one after the other: a phone changes its cell, a computer sleeps
const WORDS = /** @type {Record<string, string>} */ ({
  download: "Downloading", load: "Loading", "self-test": "Testing", questions: "Answering", memory: "Measuring memory",
});

const now = { bundle: 0, phase: "download", done: 0, total: 0 };
const stop = new AbortController();
let ended = ""; // why the computer wants nothing more

/** @param {string} name @param {any} value @returns {Promise<any>} */
async function tell(name, value) {
  const answer = await fetch(name, { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error || `the computer says ${answer.status}`);
  return said;
}

/** @param {string} phase @param {number} [done] @param {number} [total] */
function at(phase, done = 0, total = 0) {
  const fresh = now.phase !== phase;
  Object.assign(now, { phase, done, total: Math.max(done, total) });
  if (fresh) void tell("beat", now).catch(() => {}); // the regular ones tell what becomes of it
  const bar = /** @type {HTMLProgressElement} */ ($("bar"));
  bar.max = total || 1;
  bar.value = done;
  const counted = phase === "download" ? ` ${megabytes(done)} of ${megabytes(total)}` : total ? ` ${done} of ${total}` : "";
  row(now.bundle, `${WORDS[phase]}${counted} …`);
}

/** @param {number} bundle @param {string} text @param {string} [kind] */
function row(bundle, text, kind = "") {
  const cell = /** @type {HTMLTableElement} */ ($("bundles")).rows[bundle]?.cells[1];
  if (!cell) return;
  cell.textContent = text;
  cell.className = kind;
}

/** @param {{name: string, bytes: number}[]} bundles */
function list(bundles) {
  const body = /** @type {HTMLTableElement} */ ($("bundles")).tBodies[0];
  body.replaceChildren(...bundles.map(({ name, bytes }) => {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    line.append(head);
    line.insertCell().textContent = megabytes(bytes);
    return line;
  }));
}

/** Signs of life; the computer may answer that it is over. */
function live() {
  let lost = 0;
  const timer = setInterval(async () => {
    try {
      const { go, why } = await tell("beat", now);
      lost = 0;
      if (!go) ended = why || "the bench is over";
    } catch {
      if (++lost >= SILENT) ended = "the computer does not answer any more";
    }
    if (ended) stop.abort();
  }, BEAT_MS);
  return () => clearInterval(timer);
}

async function join() {
  const own = /** @type {any} */ (navigator);
  return tell("join", {
    agent: navigator.userAgent, platform: own.userAgentData?.platform ?? navigator.platform ?? "", model: await modelName(),
    cores: navigator.hardwareConcurrency ?? null, memory_gib: own.deviceMemory ?? null, touch: navigator.maxTouchPoints ?? 0,
    screen: `${screen.width} x ${screen.height} at ${devicePixelRatio}`, secure: isSecureContext, isolated: crossOriginIsolated,
    webgpu: Boolean(own.gpu),
  });
}

/** @param {Question} question */
async function pictures({ pictures: files }) {
  return Promise.all(files.map(async ({ url, width, height }) => {
    const answer = await fetch(url, { signal: stop.signal });
    if (!answer.ok) throw new Error(`a picture is not given: ${answer.status}`);
    return { width, height, data: new Uint8Array(await answer.arrayBuffer()) };
  }));
}

/** @param {Model} model @param {Question} question @param {number} maxNewTokens */
async function answer(model, question, maxNewTokens) {
  const images = await pictures(question);
  for await (const event of model.answer(question.messages, images, { maxNewTokens, generation: "greedy", signal: stop.signal })) {
    if (event.type !== "done") continue;
    const { cached_tokens: _, ...timings } = event.timings;
    return { text: event.text, token_ids: event.tokenIds, ...timings };
  }
  throw new Error("an answer ended without an end");
}

/** @param {Entry} entry @param {Task} task */
async function measure(entry, task) {
  const { sha256, bytes, context } = entry;
  at("download", 0, entry.size);
  const model = await VisionModel.open(entry.model, {
    runtime: task.backend, threads: task.threads, sha256, bytes, context, signal: stop.signal,
    onProgress: ({ phase, done, total }) => at(phase === "check" ? "load" : phase, done, total),
  });
  try {
    const { name, threads, why, storage, load_ms, download_ms } = model.runtime;
    $("runtime").textContent = `${name}, ${threads} thread${threads > 1 ? "s" : ""}`;
    at("self-test");
    const tested = await model.selfTest({ signal: stop.signal, onProgress: ({ done, total }) => at("self-test", done, total) });
    const checks = tested.checks.map(({ name: own, count, passed, failures }) => ({
      name: own, count, passed, failures: failures.map((one) => one.slice(0, MOST_WORD)),
    }));
    const pressed = watchPressure();
    const answers = [];
    for (const question of task.questions.slice(0, task.warmup)) await answer(model, question, task.maxNewTokens);
    for (const question of task.questions) {
      at("questions", answers.length, task.questions.length);
      answers.push(await answer(model, question, task.maxNewTokens));
    }
    at("memory");
    const memory = await memoryOf(model);
    const told = {
      backend: name, threads, why: why.slice(0, MOST_WORD), storage, load_ms: Math.max(0, load_ms - download_ms), checks, answers,
      memory_bytes: memory?.bytes ?? null, memory_by: memory?.how ?? "", battery_percent: await battery(), cpu_pressure: pressed(),
    };
    return { told, passed: tested.checks.every((check) => check.passed || check.name === "files") };
  } finally {
    model.close();
  }
}

/** @param {{itl_ms: number[]}[]} answers */
function speed(answers) {
  const gaps = answers.flatMap((one) => one.itl_ms);
  return gaps.length ? `Done: ${(1000 / median(gaps)).toFixed(1)} tokens/s` : "Done";
}

/** @param {number} bundle @param {Task} task */
async function one(bundle, task) {
  Object.assign(now, { bundle, phase: "download", done: 0, total: 0 });
  try {
    const { told, passed } = await measure(task.bundles[bundle], task);
    await tell("result", { bundle, ...told });
    row(bundle, passed ? speed(told.answers) : "Self-test failed", passed ? "good" : "bad");
  } catch (error) {
    if (stop.signal.aborted) throw error;
    const { name, message } = /** @type {Error} */ (error);
    const why = name === "EdgekitError" ? message.replace(/\s+/g, " ") : `${name}: ${message}`;
    row(bundle, `Failed: ${why}`, "bad");
    // Where the computer refused the result itself, it knows already.
    await tell("failed", { bundle, why: why.slice(0, MOST_WORD) }).catch(() => {});
  } finally {
    await clearStore().catch(() => {}); // the address changes from bench to bench: what is kept would never be found again
  }
}

async function run() {
  $("error").hidden = true;
  const { name, bundle: first } = await join();
  $("start").hidden = true;
  $("bar").hidden = false;
  $("state").textContent = `Measuring: ${name}`;
  /** @type {Task} */
  const task = await (await fetch("task.json")).json();
  addEventListener("pagehide", () => navigator.sendBeacon("leave", JSON.stringify(now)));
  await /** @type {any} */ (navigator).wakeLock?.request("screen").catch(() => {});
  Object.assign(now, { bundle: first });
  const still = live();
  try {
    for (let bundle = first; bundle < task.bundles.length; bundle++) await one(bundle, task);
    $("state").textContent = "Done. Thank you; this page can be closed.";
    $("hint").hidden = true;
    document.body.dataset.state = "done";
  } catch (error) {
    if (!ended) throw error;
    $("state").textContent = `Ended: ${ended}.`;
    document.body.dataset.state = "ended";
  } finally {
    still();
    $("bar").hidden = true;
  }
}

async function begin() {
  try {
    await run();
  } catch (error) {
    failed("error", error);
    document.body.dataset.state = "failed";
  }
}

const offer = await (await fetch("offer.json")).json();
list(offer.bundles);
const sum = offer.bundles.reduce((/** @type {number} */ all, /** @type {{bytes: number}} */ { bytes }) => all + bytes, 0);
$("what").textContent = `${offer.bundles.length} model${offer.bundles.length > 1 ? "s" : ""}, ${megabytes(sum)} to download, ${offer.questions} questions each.`;
const start = /** @type {HTMLButtonElement} */ ($("start"));
start.disabled = false;
start.onclick = guarded(begin);
document.body.dataset.state = "ready";
