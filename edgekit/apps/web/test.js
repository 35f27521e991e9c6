// The tab that proves the answers again on this device.
import { $, failed, guarded } from "./parts.js";

const WORDS = /** @type {Record<string, string>} */ ({
  strings: "strings cut into tokens", files: "picture files decoded", pixels: "pictures prepared", prompts: "prompts written",
  answers: "answers", chat: "turns of a chat",
});

/** @param {() => import("./edgekit/types.js").VisionModel | null} current */
export function setUpTest(current) {
  $("test-start").onclick = guarded(async () => {
    const model = current();
    $("test-error").hidden = true;
    $("checks").replaceChildren();
    $("verdict").className = "";
    if (!model) {
      $("verdict").textContent = "Load the model first.";
      return;
    }
    const stop = new AbortController();
    $("test-stop").onclick = () => stop.abort();
    $("test-start").hidden = true;
    $("test-stop").hidden = $("test-bar").hidden = false;
    $("verdict").textContent = "Testing …";
    try {
      const bar = /** @type {HTMLProgressElement} */ ($("test-bar"));
      show(await model.selfTest({ signal: stop.signal, onProgress: ({ done, total }) => (bar.value = done / total) }));
    } catch (error) {
      $("verdict").textContent = "";
      failed("test-error", error);
    } finally {
      $("test-start").hidden = false;
      $("test-stop").hidden = $("test-bar").hidden = true;
    }
  });
}

/** @param {import("./edgekit/types.js").SelfTest} result */
function show({ passed, checks, ms }) {
  $("verdict").textContent = passed ? `Passed: the same here, in ${(ms / 1000).toFixed(1)} s.` : "Failed: this device gives something else.";
  $("verdict").className = passed ? "good" : "bad";
  $("checks").replaceChildren(...checks.map(({ name, count, passed: held, failures }) => {
    const item = document.createElement("li");
    item.className = held ? "" : "bad";
    item.textContent = `${held ? "✓" : "✗"} ${count} ${WORDS[name] ?? name}${count ? "" : ": none are in this bundle"}`;
    if (failures.length) item.textContent += `; not the same: ${failures.join(", ")}`;
    return item;
  }));
}
