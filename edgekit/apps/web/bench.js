// The tab that measures, and saves what `edgekit bench --import` reads (edgekit-phone JSON).
import { battery, memoryOf, modelName, watchPressure } from "./device.js";
import { SETTINGS } from "./settings.js";
import { $, failed, guarded, median, megabytes } from "./parts.js";

/** @typedef {import("./edgekit/types.js").BenchRun} BenchRun */
/** @typedef {import("./edgekit/types.js").VisionModel} VisionModel */

const RUNS = 20;

/** @param {() => VisionModel | null} current */
export function setUpBench(current) {
  $("bench-start").onclick = guarded(async () => {
    const model = current();
    $("bench-error").hidden = true;
    if (!model) {
      $("bench-note").textContent = "Load the model first.";
      return;
    }
    const stop = new AbortController();
    $("bench-stop").onclick = () => stop.abort();
    $("bench-start").hidden = true;
    $("bench-stop").hidden = $("bench-bar").hidden = false;
    try {
      const bar = /** @type {HTMLProgressElement} */ ($("bench-bar"));
      const pressed = watchPressure();
      const runs = await model.bench({ runs: RUNS, signal: stop.signal, onProgress: ({ done, total }) => (bar.value = done / total) });
      const cpu_pressure = pressed();
      const memory = await memoryOf(model);
      show(runs, memory?.bytes ?? null);
      const told = { cpu_pressure, battery_percent: await battery(), model: await modelName() };
      $("bench-save").hidden = false;
      $("bench-save").onclick = () => save(document_(model, runs, memory, told));
    } catch (error) {
      failed("bench-error", error);
    } finally {
      $("bench-start").hidden = false;
      $("bench-stop").hidden = $("bench-bar").hidden = true;
    }
  });
}

/** @param {BenchRun[]} runs @param {number | null} memory */
function show(runs, memory) {
  const middle = (/** @type {(run: BenchRun) => number} */ of) => median(runs.map(of));
  const gaps = runs.flatMap((run) => run.itl_ms);
  const first = (/** @type {BenchRun} */ run) => run.preprocess_ms + run.image_encode_ms + run.prefill_ms + run.first_token_ms;
  const rows = [
    ["Picture prepared", `${middle((run) => run.preprocess_ms).toFixed(1)} ms`],
    ["Picture encoded", `${middle((run) => run.image_encode_ms).toFixed(1)} ms`],
    ["Prompt read", `${middle((run) => run.prefill_ms).toFixed(1)} ms`],
    ["First token after", `${middle(first).toFixed(1)} ms`],
    ["Prompt", `${Math.round(middle((run) => (1000 * run.prompt_tokens) / run.prefill_ms))} tokens/s`],
    ["Answer", gaps.length ? `${(1000 / median(gaps)).toFixed(1)} tokens/s` : "one token each"],
    ["Memory of the page", memory === null ? "the browser does not tell" : megabytes(memory)],
  ];
  const body = /** @type {HTMLTableSectionElement} */ ($("bench-table").querySelector("tbody"));
  body.replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
    return row;
  }));
  $("bench-table").hidden = false;
  $("bench-note").textContent = `Medians of ${runs.length} answers.`;
}

/**
 * @param {VisionModel} model
 * @param {BenchRun[]} runs
 * @param {{bytes: number, how: string} | null} memory
 * @param {{cpu_pressure: string, battery_percent: number | null, model: string}} told
 */
function document_(model, runs, memory, told) {
  const agent = /** @type {any} */ (navigator).userAgentData;
  const { name, target, precision } = model.model;
  const { runtime } = model;
  return {
    format: "edgekit-phone", schema_version: 2, bundle: SETTINGS.bundle, name, runtime: "onnxruntime-web", target,
    precision: precision.common, device: told.model || agent?.platform || navigator.platform || "unknown",
    os: /\(([^)]*)\)/.exec(navigator.userAgent)?.[1] ?? "unknown", runs, load_ms: Math.max(0, runtime.load_ms - runtime.download_ms),
    compute_units: runtime.name, threads: runtime.threads, browser: navigator.userAgent,
    app: `edgekit web app ${SETTINGS.edgekit}`, cpu_pressure: told.cpu_pressure, battery_percent: told.battery_percent,
    ...(memory === null ? {} : { peak_memory_bytes: memory.bytes, memory_by: memory.how }),
    extra: { isolated: String(runtime.isolated), why: runtime.why, storage: runtime.storage },
  };
}

/** Shared where a device can, else saved. @param {any} value */
async function save(value) {
  const file = new File([JSON.stringify(value, null, 1)], "edgekit-phone.json", { type: "application/json" });
  if (navigator.canShare?.({ files: [file] }) && navigator.maxTouchPoints) {
    await navigator.share({ files: [file] }).catch(() => {});
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  URL.revokeObjectURL(link.href);
}
