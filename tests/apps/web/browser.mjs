// The page that `edgekit app` wrote, in Chromium: each scenario in a browser profile of its own, results as JSON.
//
//   node browser.mjs NODE_MODULES TASK.json      task: {app, chromium, work, scenarios: [{name, ...}]}
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";

const [modules, asked] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const task = JSON.parse(fs.readFileSync(asked, "utf8"));
const KINDS = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json", ".wasm": "application/wasm", ".webmanifest": "application/manifest+json", ".png": "image/png" };
const FLAGS = ["--disable-background-networking", "--no-first-run", "--disable-component-update"];
const WAIT = 120000;

/** Plain files, with ranges; `faults` change what is served. */
function serve(folder, faults) {
  const requests = [];
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://x").pathname).replace(/\/$/, "/index.html");
    const file = name.startsWith("/model/") && faults.model ? path.join(faults.model, name.slice(7)) : path.join(folder, name);
    requests.push({ name, range: request.headers.range ?? null });
    if (name.includes("..") || !fs.existsSync(file)) return response.writeHead(404).end();
    let data = fs.readFileSync(file);
    if (faults.flip === name) data[Math.floor(data.length / 2)] ^= 1;
    if (faults.replace?.name === name) data = Buffer.from(String(data).replace(faults.replace.from, faults.replace.to));
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const head = { "Content-Type": KINDS[path.extname(name)] ?? "application/octet-stream", "Cache-Control": "no-store" };
    if (start && !faults.noRanges) Object.assign(head, { "Content-Range": `bytes ${start}-${data.length - 1}/${data.length}` });
    const body = start && !faults.noRanges ? data.subarray(start) : data;
    response.writeHead(start && !faults.noRanges ? 206 : 200, { ...head, "Content-Length": body.length });
    if (faults.cut === name) {
      // A part, and then silence: the page is killed meanwhile, or the line breaks.
      response.write(body.subarray(0, Math.floor(body.length / 2)));
      if (faults.breaks) setTimeout(() => response.destroy(), 100);
      faults.cut = faults.breaks ? null : faults.cut;
      return undefined;
    }
    return response.end(body);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({ server, requests, url: `http://127.0.0.1:${server.address().port}/` })));
}

async function browse(profile, work, { flags = [], ...options } = {}) {
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: task.chromium, headless: true, args: ["--no-sandbox", ...FLAGS, ...flags], acceptDownloads: true, ...options,
  });
  try {
    return await work(context);
  } finally {
    await context.close();
  }
}

async function open(context, url, query = "?runtime=wasm") {
  const page = context.pages()[0] ?? (await context.newPage());
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(url + query);
  await page.waitForFunction(() => document.body.dataset.state, undefined, { timeout: WAIT });
  await page.waitForTimeout(300); // a reload for isolation may be under way
  await page.waitForFunction(() => document.body.dataset.state, undefined, { timeout: WAIT });
  return { page, errors };
}

async function load(page) {
  await page.evaluate(() => (document.body.dataset.state = "asked"));
  await page.click("#load");
  await page.waitForFunction(() => ["ready", "failed"].includes(document.body.dataset.state), undefined, { timeout: WAIT });
  return page.evaluate(() => ({ state: document.body.dataset.state, error: document.querySelector("#loading-error").textContent, runtime: document.querySelector("#runtime").textContent, why: document.querySelector("#runtime").title, isolated: crossOriginIsolated }));
}

/** Answers of questions by the library in the page, without the page's own parts. */
const answers = (page, questions, options) =>
  page.evaluate(async ([asked, given]) => {
    const { VisionModel } = await import("./edgekit/index.js");
    globalThis.model ??= await VisionModel.open("model/app/model.json", { runtime: "wasm", ...given.open });
    const said = [];
    for (const { text, pictures } of asked) {
      const images = pictures.map(({ width, height, rgb }) => ({ width, height, data: Uint8Array.from(atob(rgb), (one) => one.charCodeAt(0)) }));
      let pieces = "";
      for await (const event of globalThis.model.answer(text, images, { maxNewTokens: 8, generation: "greedy" })) {
        if (event.type === "text") pieces += event.text;
        if (event.type === "done") said.push({ ids: event.tokenIds, text: event.text, finish: event.finish, pieces, ms: event.timings.itl_ms.concat(event.timings.prefill_ms) });
      }
    }
    return { said, runtime: globalThis.model.runtime };
  }, [questions, options ?? {}]);

const selfTest = (page) => page.evaluate(() => globalThis.model.selfTest());

const SCENARIOS = {
  /** The page by hand: load, ask about a file, test, measure; then without a server. */
  async page({ url, server, profile, work }) {
    return browse(profile, async (context) => {
      const { page, errors } = await open(context, url);
      const loaded = await load(page);
      await page.setInputFiles("#file", path.join(task.app, "model/golden/square.png"));
      const ask = async (text) => {
        const before = await page.locator("#turns .said").count();
        await page.fill("#question", text);
        await page.press("#question", "Enter");
        await page.waitForFunction((count) => document.querySelectorAll("#turns .said:not(.waiting)").length > count, before, { timeout: WAIT });
        await page.waitForSelector("#send:not([hidden])");
        return page.evaluate(() => ({ text: [...document.querySelectorAll("#turns .said")].at(-1).textContent, figures: document.querySelector("#figures").textContent, error: document.querySelector("#ask-error").textContent }));
      };
      const first = await ask("what is there?");
      const second = await ask("is it red?");
      for (const shot of task.shots ?? []) await shoot(page, shot, work);
      await page.click("#tab-test");
      await page.click("#test-start");
      await page.waitForFunction(() => /Passed|Failed/.test(document.querySelector("#verdict").textContent), undefined, { timeout: WAIT });
      const verdict = await page.evaluate(() => [document.querySelector("#verdict").textContent, ...[...document.querySelectorAll("#checks li")].map((item) => item.textContent)]);
      for (const shot of task.shots ?? []) await shoot(page, { ...shot, name: `test-${shot.name}` }, work);
      await page.click("#tab-bench");
      await page.click("#bench-start");
      await page.waitForFunction(() => !document.querySelector("#bench-table").hidden || !document.querySelector("#bench-error").hidden, undefined, { timeout: WAIT });
      const benched = await page.evaluate(() => [...document.querySelectorAll("#bench-table tr")].map((row) => row.textContent));
      let saved = null;
      if (benched.length) {
        const [download] = await Promise.all([page.waitForEvent("download"), page.click("#bench-save")]);
        saved = JSON.parse(fs.readFileSync(await download.path(), "utf8"));
      }
      for (const shot of task.shots ?? []) await shoot(page, { ...shot, name: `bench-${shot.name}` }, work);
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      const again = await open(context, url);
      const offline = await load(again.page);
      await again.page.setInputFiles("#file", path.join(task.app, "model/golden/square.png"));
      await again.page.fill("#question", "what is there?");
      await again.page.press("#question", "Enter");
      await again.page.waitForFunction(() => document.querySelector("#figures").textContent.includes("tokens"), undefined, { timeout: WAIT });
      const same = await again.page.evaluate(() => document.querySelector("#turns .said").textContent);
      return { loaded, first, second, verdict, benched, saved, offline, same, errors };
    });
  },

  /** Token ids of many questions, and the whole self-test, picture files included. */
  async answers({ url, profile, scenario }) {
    return browse(profile, async (context) => {
      const { page } = await open(context, url);
      const { said, runtime } = await answers(page, scenario.questions);
      return { said, runtime, tested: await selfTest(page) };
    });
  },

  /** A bit that another server, or the disk, turned over. */
  async damaged({ url, profile, faults, requests, scenario }) {
    return browse(profile, async (context) => {
      faults.flip = scenario.file;
      const { page } = await open(context, url);
      const refused = await load(page);
      faults.flip = null;
      const mended = await load(page);
      // In the page's own storage now, in its largest file, behind the library's back.
      const flip = () =>
        page.evaluate(async () => {
          const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("edgekit");
          let largest = null;
          for await (const one of folder.values()) {
            const { size } = await one.getFile();
            if (!largest || size > largest.size) largest = { one, size };
          }
          const data = new Uint8Array(await (await largest.one.getFile()).arrayBuffer());
          data[data.length >> 1] ^= 1;
          const writer = await largest.one.createWritable();
          await writer.write(data);
          await writer.close();
          return largest.size;
        });
      const kept = await flip();
      requests.length = 0;
      const healed = await load((await open(context, url)).page);
      const fetched = requests.filter(({ name }) => name === scenario.file).length;
      await flip();
      faults.flip = scenario.file;
      const again = await load((await open(context, url)).page);
      return { refused, mended, kept, healed, fetched, again };
    });
  },

  /** The page is killed in the middle of a file, and opened again; then a line that breaks; then a server without ranges. */
  async resume({ url, profile, faults, requests, scenario }) {
    const found = {};
    faults.cut = scenario.file;
    await browse(profile, async (context) => {
      const { page } = await open(context, url);
      await page.click("#load");
      await page.waitForFunction(() => document.querySelector("#loading-text").textContent.includes("of"), undefined, { timeout: WAIT });
      await page.waitForTimeout(1500);
    });
    faults.cut = null;
    requests.length = 0;
    await browse(profile, async (context) => {
      const { page } = await open(context, url);
      found.resumed = await load(page);
      found.requests = requests.filter(({ name }) => name === scenario.file);
      await page.evaluate(async () => (await import("./edgekit/index.js")).clearStore());
      faults.cut = scenario.file;
      faults.breaks = true;
      requests.length = 0;
      const second = await open(context, url);
      found.broken = await load(second.page);
      found.breaks = requests.filter(({ name }) => name === scenario.file);
      await page.evaluate(async () => (await import("./edgekit/index.js")).clearStore());
      Object.assign(faults, { cut: scenario.file, breaks: true, noRanges: true });
      const third = await open(context, url);
      found.whole = await load(third.page);
    });
    return found;
  },

  /** Cancelled in the middle; the next answer is what it always was. Memory over many answers. */
  async long({ url, profile, scenario }) {
    return browse(profile, async (context) => {
      const { page } = await open(context, url);
      const { said: first } = await answers(page, scenario.questions.slice(0, 1));
      const cancelled = await page.evaluate(async () => {
        const stop = new AbortController();
        const ids = [];
        let error = "";
        const started = performance.now();
        try {
          for await (const event of globalThis.model.answer("tell me all", null, { maxNewTokens: 400, generation: "greedy", temperature: 5, seed: 1, signal: stop.signal })) {
            if (event.type === "token") ids.push(event.id);
            if (ids.length === 2) stop.abort();
          }
        } catch (thrown) {
          error = thrown.name;
        }
        return { ids, error, ms: performance.now() - started };
      });
      const { said: after } = await answers(page, scenario.questions.slice(0, 1));
      const measured = [];
      const measure = () => page.evaluate(() => performance.measureUserAgentSpecificMemory().then(({ bytes }) => bytes));
      for (let round = 0; round < scenario.rounds; round++) {
        await answers(page, scenario.questions);
        measured.push(await measure());
      }
      return { first, cancelled, after, measured, isolated: await page.evaluate(() => crossOriginIsolated) };
    }, { flags: ["--enable-blink-features=ForceEagerMeasureMemory"] });
  },

  /** A GPU in software, and one whose answers are held to be wrong. */
  async gpu({ url, profile, scenario }) {
    return browse(profile, async (context) => {
      const { page } = await open(context, url);
      const there = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
      const tried = await answers(page, scenario.questions, { open: { runtime: "auto" } });
      return { there, ...tried };
    }, { flags: ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"] });
  },
};

async function shoot(page, { name, width, height, scheme }, work) {
  await page.emulateMedia({ colorScheme: scheme });
  await page.setViewportSize({ width, height });
  await page.waitForTimeout(100);
  await page.screenshot({ path: path.join(work, `${name}.png`), fullPage: true });
}

const results = {};
for (const scenario of task.scenarios) {
  const faults = { model: scenario.model, replace: scenario.replace };
  const served = await serve(task.app, faults);
  const profile = fs.mkdtempSync(path.join(task.work, "profile-"));
  try {
    results[scenario.name] = await SCENARIOS[scenario.do ?? scenario.name]({ ...served, faults, profile, work: task.work, scenario });
  } catch (error) {
    results[scenario.name] = { failed: String(error?.stack ?? error).slice(0, 2000) };
  } finally {
    served.server.closeAllConnections();
    served.server.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}
process.stdout.write(JSON.stringify(results));
