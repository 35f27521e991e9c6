// What the tabs share.

/** @param {string} id @returns {HTMLElement} */
export const $ = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {number} bytes */
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {number[]} values */
export function median(values) {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Show an error where it belongs; that something was cancelled is none. @param {string} id @param {unknown} error */
export function failed(id, error) {
  const { name, message } = /** @type {Error} */ (error);
  if (name === "AbortError") return;
  $(id).textContent = name === "EdgekitError" ? message : `${name}: ${message}`;
  $(id).hidden = false;
  if (name !== "EdgekitError") console.error(error);
}

/** A handler that cannot be started twice at once. @param {() => Promise<void>} work */
export function guarded(work) {
  let busy = false;
  return async () => {
    if (busy) return;
    busy = true;
    try {
      await work();
    } finally {
      busy = false;
    }
  };
}
