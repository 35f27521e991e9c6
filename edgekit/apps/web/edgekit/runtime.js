// Which onnxruntime-web runs a bundle: WebAssembly, or the GPU where its answers were seen to be right on this machine.
import { EdgekitError } from "./errors.js";

/** @typedef {import("./types.js").RuntimeInfo} RuntimeInfo */

/**
 * @typedef {object} Runtime
 * @property {any} ort
 * @property {string[]} providers
 * @property {boolean} onGpu
 * @property {number} piece Tokens that are prefilled at once at most; 0 for all.
 * @property {number} threads
 */

const MOST_THREADS = 4;
// onnxruntime-web 1.30.0's GPU kernels were seen to be wrong from 32 prompt tokens on; in pieces of 24 they are exact.
const GPU_PIECE = 24;
const LOAD_MS = 60000;

/** iOS and iPadOS, where threads of WebAssembly once hung (onnxruntime#11679). */
const isApplePhone = () =>
  /iPhone|iPad|iPod/.test(navigator.userAgent) || (/Macintosh/.test(navigator.userAgent) && navigator.maxTouchPoints > 1);

/** @param {number | undefined} asked */
export function threadsFor(asked) {
  if (!globalThis.crossOriginIsolated) return { threads: 1, why: "one thread: the page is not cross-origin isolated" };
  if (asked) return { threads: asked, why: `${asked} thread${asked > 1 ? "s" : ""}, as asked` };
  if (isApplePhone()) return { threads: 1, why: "one thread: several once hung on iOS" };
  const threads = Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1));
  return { threads, why: `${threads} of ${navigator.hardwareConcurrency} threads` };
}

/** Why the GPU cannot be tried; "" where it can. */
export async function gpuProblem() {
  const gpu = /** @type {any} */ (navigator).gpu;
  if (!gpu) return "this browser has no WebGPU here";
  try {
    if (await gpu.requestAdapter()) return "";
  } catch (error) {
    return `WebGPU gives no adapter: ${error}`;
  }
  return "WebGPU gives no adapter";
}

/**
 * Load onnxruntime-web.
 * @param {"wasm" | "webgpu"} kind
 * @param {string} folder Of its files, with a slash at the end.
 * @param {number} threads
 * @returns {Promise<Runtime>}
 */
export async function loadRuntime(kind, folder, threads) {
  const file = kind === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  let ort;
  try {
    ort = await within(LOAD_MS, import(`${folder}${file}`), `${file} is not loaded`);
  } catch (error) {
    if (error instanceof EdgekitError) throw error;
    throw new EdgekitError(`Cannot load onnxruntime-web's ${file}.`, {
      why: `${error}. Folder: ${folder}`,
      fix: "Its files must lie there, beside the page: workers outside of the service worker's scope are blocked.",
      code: "runtime",
    });
  }
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = folder;
  ort.env.logLevel = "error";
  const onGpu = kind === "webgpu";
  return { ort, providers: [kind], onGpu, piece: onGpu ? GPU_PIECE : 0, threads };
}

/**
 * A promise that takes too long is given up: blocked workers leave onnxruntime-web waiting for ever.
 * @template T
 * @param {number} ms
 * @param {Promise<T>} promise
 * @param {string} what
 * @returns {Promise<T>}
 */
export function within(ms, promise, what) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      const why = `${ms / 1000} seconds went by.`;
      reject(new EdgekitError(`${what}.`, { why, fix: "Open the page again, or ask for one thread.", code: "timeout" }));
    }, ms);
  });
  return /** @type {Promise<T>} */ (Promise.race([promise, late]).finally(() => clearTimeout(timer)));
}
