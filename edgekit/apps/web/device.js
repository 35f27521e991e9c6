// What a browser tells of the device that it runs on; each of it where there is one, and null or "" elsewhere.

const LEVELS = ["nominal", "fair", "serious", "critical"];
const MEMORY_MS = 60000; // browsers answer when they like to

/** Charge of the battery, percent. @returns {Promise<number | null>} */
export async function battery() {
  try {
    const found = await /** @type {any} */ (navigator).getBattery?.();
    return found ? Math.round(100 * found.level) : null;
  } catch {
    return null;
  }
}

/**
 * Watches how hard the processor is pressed, heat included, as the Compute Pressure API tells it.
 * @returns {() => string} Ends it; the worst level seen.
 */
export function watchPressure() {
  let worst = -1;
  const Observer = /** @type {any} */ (globalThis).PressureObserver;
  if (!Observer) return () => "";
  /** @param {{state: string}[]} records */
  const seen = (records) => {
    for (const { state } of records) worst = Math.max(worst, LEVELS.indexOf(state));
  };
  const observer = new Observer(seen);
  observer.observe("cpu", { sampleInterval: 1000 }).catch(() => {});
  return () => {
    observer.disconnect();
    return LEVELS[worst] ?? "";
  };
}

/** Memory of the page. @param {import("./edgekit/types.js").VisionModel} model */
export const memoryOf = (model) =>
  Promise.race([model.memory().catch(() => null), new Promise((resolve) => setTimeout(() => resolve(null), MEMORY_MS))]);

/** A phone's own name, where the browser tells it. */
export async function modelName() {
  try {
    const agent = /** @type {any} */ (navigator).userAgentData;
    const { model = "" } = (await agent?.getHighEntropyValues?.(["model"])) ?? {};
    return String(model);
  } catch {
    return "";
  }
}
