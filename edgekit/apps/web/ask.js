// The tab that asks: a picture from a file, a drop or the camera; a question; the answer as it comes.
import { $, failed, median, megabytes } from "./parts.js";

/** @typedef {import("./edgekit/types.js").VisionModel} VisionModel */

const MOST_TOKENS = 256;
const DOES = { preprocess: "Preparing", encode: "Looking", prefill: "Reading", decode: "" };

/**
 * @param {() => VisionModel | null} current
 * @param {() => Promise<void>} load
 */
export function setUpAsk(current, load) {
  /** @type {Blob | null} */
  let picture = null;
  /** @type {import("./edgekit/types.js").Chat | null} */
  let chat = null;
  let shown = false; // the picture is part of the conversation
  const question = /** @type {HTMLInputElement} */ ($("question"));
  const send = /** @type {HTMLButtonElement} */ ($("send"));

  /** @param {Blob | null} file */
  const take = (file) => {
    picture = file;
    chat = null;
    shown = false;
    const image = /** @type {HTMLImageElement} */ ($("preview"));
    if (image.src) URL.revokeObjectURL(image.src);
    image.hidden = !file;
    $("hint").hidden = Boolean(file);
    $("clear").hidden = !file;
    if (!file) return;
    image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
    image.src = URL.createObjectURL(file);
  };

  const fresh = () => {
    chat = null;
    shown = false;
    $("turns").replaceChildren();
    $("fresh").hidden = true;
    $("figures").textContent = "\u00a0";
  };

  /** @param {string} kind @param {string} text */
  const turn = (kind, text) => {
    const item = document.createElement("li");
    item.className = kind;
    item.textContent = text;
    $("turns").append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  };

  const ask = async () => {
    const text = question.value.trim();
    if (!text || send.disabled) return;
    $("ask-error").hidden = true;
    send.disabled = true;
    if (!current()) await load();
    const model = current();
    if (!model) {
      send.disabled = false;
      return;
    }
    const stop = new AbortController();
    $("stop").onclick = () => stop.abort();
    send.hidden = true;
    $("stop").hidden = false;
    question.value = "";
    turn("asked", text);
    const said = turn("said waiting", "");
    try {
      chat ??= model.chat({ maxNewTokens: MOST_TOKENS });
      const images = picture && !shown ? [picture] : [];
      await stream(chat.say(text, images, { signal: stop.signal }), said);
      shown = true;
      $("fresh").hidden = false;
    } catch (error) {
      failed("ask-error", error);
      if (/** @type {Error} */ (error).name === "AbortError") said.textContent += " (stopped)";
      else said.remove();
      chat = null;
      shown = false;
    } finally {
      said.classList.remove("waiting");
      send.hidden = send.disabled = false;
      $("stop").hidden = true;
      question.focus();
    }
    await memory(model);
  };

  $("form").onsubmit = (event) => {
    event.preventDefault();
    void ask();
  };
  $("fresh").onclick = fresh;
  $("clear").onclick = () => take(null);
  const file = /** @type {HTMLInputElement} */ ($("file"));
  file.onchange = () => {
    if (file.files?.[0]) take(file.files[0]);
    file.value = "";
  };
  setUpDrop(take);
  setUpCamera(take);
  return { ready: () => question.focus() };
}

/** @param {AsyncGenerator<import("./edgekit/types.js").Event>} events @param {HTMLElement} said */
async function stream(events, said) {
  let text = "";
  let due = 0; // the screen is written to at most so often: that costs time, too
  for await (const event of events) {
    if (event.type === "text") {
      text += event.text;
      if (performance.now() > due) {
        said.textContent = text.trimStart();
        due = performance.now() + 40;
      }
    }
    if (event.type === "phase") said.setAttribute("aria-label", DOES[event.phase]);
    if (event.type !== "done") continue;
    said.removeAttribute("aria-label");
    said.textContent = event.text || "(no words)";
    said.scrollIntoView({ block: "nearest" });
    figures(event);
  }
}

/** @param {import("./edgekit/types.js").Answer} answer */
function figures({ timings, tokenIds }) {
  const first = timings.preprocess_ms + timings.image_encode_ms + timings.prefill_ms + timings.first_token_ms;
  const speed = timings.itl_ms.length ? `, then ${(1000 / median(timings.itl_ms)).toFixed(1)} tokens/s` : "";
  $("figures").textContent = `${tokenIds.length} tokens; first after ${Math.round(first)} ms${speed}`;
}

/** Where the browser tells it, some time later. @param {VisionModel} model */
async function memory(model) {
  const found = await model.memory();
  if (found) $("figures").textContent += `; memory ${megabytes(found.bytes)}`;
}

/** @param {(file: Blob) => void} take */
function setUpDrop(take) {
  const place = $("drop");
  place.ondragover = (event) => {
    event.preventDefault();
    place.classList.add("over");
  };
  place.ondragleave = () => place.classList.remove("over");
  place.ondrop = (event) => {
    event.preventDefault();
    place.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file?.type.startsWith("image/")) take(file);
  };
  document.onpaste = (event) => {
    const file = event.clipboardData?.files[0];
    if (file?.type.startsWith("image/")) take(file);
  };
}

/** @param {(file: Blob) => void} take */
function setUpCamera(take) {
  const dialog = /** @type {HTMLDialogElement} */ ($("camera-dialog"));
  const video = /** @type {HTMLVideoElement} */ ($("video"));
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("camera").onclick = async () => {
    $("camera-error").hidden = true;
    dialog.showModal();
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      failed("camera-error", error);
    }
  };
  $("shoot").onclick = async () => {
    if (!video.videoWidth) return;
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d")?.drawImage(video, 0, 0);
    take(await canvas.convertToBlob({ type: "image/png" }));
    dialog.close();
  };
  $("camera-close").onclick = () => dialog.close();
  dialog.onclose = () => {
    const stream = /** @type {MediaStream | null} */ (video.srcObject);
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  };
}
