// The sample page: it loads the model when asked to, and wires the three tabs to it.
import { VisionModel } from "./edgekit/index.js";
import { SETTINGS } from "./settings.js";
import { setUpAsk } from "./ask.js";
import { setUpBench } from "./bench.js";
import { setUpTest } from "./test.js";
import { $, failed, guarded, megabytes } from "./parts.js";

/** @type {VisionModel | null} */
let model = null;
const MOST_WAIT_MS = 15000; // for the service worker; without it there is one thread
const wanted = new URLSearchParams(location.search); // ?runtime=wasm&threads=1, for trying

async function load() {
  const stop = new AbortController();
  $("load-stop").onclick = () => stop.abort();
  $("load").hidden = true;
  $("load-stop").hidden = $("loading-bar").hidden = false;
  $("loading-error").hidden = true;
  try {
    const runtime = /** @type {any} */ (wanted.get("runtime")) ?? "auto";
    const { sha256, bytes, context } = SETTINGS;
    model = await VisionModel.open(SETTINGS.model, {
      runtime, threads: Number(wanted.get("threads")) || undefined, sha256, bytes, context, onProgress: show, signal: stop.signal,
    });
    $("loading").hidden = true;
    const { name, threads, why, storage } = model.runtime;
    $("runtime").textContent = `${model.model.precision.common} on ${name}, ${threads} thread${threads > 1 ? "s" : ""}`;
    $("runtime").title = `${why}. Kept in ${storage}.`;
    document.body.dataset.state = "ready";
    ask.ready();
  } catch (error) {
    failed("loading-error", error);
    $("load").hidden = false;
    $("load").textContent = "Try again";
    document.body.dataset.state = "failed";
  } finally {
    $("load-stop").hidden = $("loading-bar").hidden = true;
  }
}

/** @param {import("./edgekit/types.js").Progress} progress */
function show({ phase, done, total }) {
  const bar = /** @type {HTMLProgressElement} */ ($("loading-bar"));
  bar.max = total || 1;
  bar.value = done;
  /** @type {Record<string, string>} */
  const words = { download: `Downloading, ${megabytes(done)} of ${megabytes(total)}`, check: "Checking", load: "Loading", "self-test": "Trying the GPU" };
  $("loading-text").textContent = `${words[phase]} …`;
}

/** Arrow keys move between the tabs. */
function setUpTabs() {
  const tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[role=tab]")]);
  /** @param {HTMLElement} chosen */
  const choose = (chosen) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      $(/** @type {string} */ (tab.getAttribute("aria-controls"))).hidden = !on;
    }
  };
  tabs.forEach((tab, place) => {
    tab.onclick = () => choose(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    };
  });
}

/** The service worker serves the page offline, and isolates it; for that it is loaded once more. */
async function setUpOffline() {
  if (!("serviceWorker" in navigator) || !window.isSecureContext) return;
  const taken = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  const before = navigator.serviceWorker.controller;
  await navigator.serviceWorker.register("sw.js").catch(() => {});
  if (crossOriginIsolated || before || sessionStorage.getItem("isolated")) return;
  await Promise.race([taken, new Promise((resolve) => setTimeout(resolve, MOST_WAIT_MS))]);
  sessionStorage.setItem("isolated", "tried");
  const untouched = !model && !$("load").hidden && $("preview").hidden && !(/** @type {HTMLInputElement} */ ($("question")).value);
  if (navigator.serviceWorker.controller && untouched) {
    location.reload();
    await new Promise(() => {}); // the page is on its way out
  }
}

document.title = $("title").textContent = SETTINGS.name;
$("size").textContent = megabytes(SETTINGS.size);
setUpTabs();
const current = () => model;
const ask = setUpAsk(current, load);
setUpBench(current);
setUpTest(current);
$("load").onclick = guarded(load);
await setUpOffline();
document.body.dataset.state ??= "idle";
