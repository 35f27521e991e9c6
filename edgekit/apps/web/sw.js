// Serves the page without a network, and makes it cross-origin isolated, so that WebAssembly may have threads.
// VERSION and FILES are written by `edgekit app`; the model's own files are kept by the library, under their hashes.
const VERSION = "@VERSION@";
/** @type {string[]} */
const FILES = [];
const worker = /** @type {any} */ (globalThis); // TypeScript's types of pages know no service workers

worker.addEventListener("install", (/** @type {any} */ event) => event.waitUntil(keep()));
worker.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(replace()));

// One by one: a single file that is missing would leave the page waiting for ever.
async function keep() {
  const cache = await caches.open(VERSION);
  await Promise.allSettled(FILES.map((file) => cache.add(new Request(file, { cache: "reload" }))));
  await worker.skipWaiting();
}

async function replace() {
  for (const name of await caches.keys()) if (name !== VERSION && name.startsWith("edgekit-")) await caches.delete(name);
  await worker.clients.claim();
}

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  const here = new URL(worker.registration.scope);
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== here.origin || !url.pathname.startsWith(here.pathname)) return;
  if (url.pathname.startsWith(`${here.pathname}model/`)) return;
  event.respondWith(answer(request, url));
});

/** @param {Request} request @param {URL} url */
async function answer(request, url) {
  const cache = await caches.open(VERSION);
  const found = await cache.match(request.mode === "navigate" ? worker.registration.scope : url.href, { ignoreSearch: true });
  if (found) return isolated(found);
  const fresh = await fetch(request);
  // onnxruntime-web's files are tens of megabytes, of which a device needs a part: they are kept when first used.
  if (fresh.ok && fresh.status === 200 && url.pathname.includes("/ort/")) await cache.put(url.href, fresh.clone());
  return isolated(fresh);
}

/** @param {Response} response */
function isolated(response) {
  if (!response.status || response.type === "opaqueredirect") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const empty = [101, 204, 205, 304].includes(response.status);
  return new Response(empty ? null : response.body, { status: response.status, statusText: response.statusText, headers });
}
