// Browsers that come to the page of `edgekit bench --device web`, all at once, as phones and as a desktop.
//
//   node visit.mjs NODE_MODULES TASK.json   task: {url, chromium, work, guests: [{name, phone, leaveAt, throttle, shots}]}
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";

const [modules, asked] = process.argv.slice(2);
const { chromium, devices } = createRequire(`${modules}/`)("playwright-core");
const task = JSON.parse(fs.readFileSync(asked, "utf8"));
const FLAGS = ["--no-sandbox", "--disable-background-networking", "--no-first-run", "--disable-component-update", "--enable-blink-features=ForceEagerMeasureMemory"];
const WAIT = 240000;

async function shoot(page, shots, stage) {
  for (const { name, width, height, scheme } of shots ?? []) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
    await page.waitForTimeout(100);
    await page.screenshot({ path: path.join(task.work, `${stage}-${name}.png`), fullPage: true });
  }
}

async function visit(browser, guest) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...(guest.phone ? devices[guest.phone] : {}) });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  if (guest.throttle) await (await context.newCDPSession(page)).send("Emulation.setCPUThrottlingRate", { rate: guest.throttle });
  try {
    await page.goto(task.url);
    await page.waitForFunction(() => document.body.dataset.state === "ready", undefined, { timeout: WAIT });
    await shoot(page, guest.shots, "ready");
    await page.click("#start");
    if (guest.leaveAt) {
      await page.waitForFunction((text) => document.querySelector("#bundles").textContent.includes(text), guest.leaveAt, { timeout: WAIT, polling: 50 });
      await shoot(page, guest.shots, "working");
      await page.goto("about:blank"); // its last word is sent meanwhile; a browser that is ended sends none
      await page.waitForTimeout(1000);
      return { left: true, errors };
    }
    await page.waitForFunction(() => ["done", "ended", "failed"].includes(document.body.dataset.state), undefined, { timeout: WAIT });
    await shoot(page, guest.shots, "done");
    return await page.evaluate(() => ({
      state: document.body.dataset.state, heading: document.querySelector("#state").textContent, error: document.querySelector("#error").textContent,
      rows: [...document.querySelectorAll("#bundles tr")].map((row) => row.textContent), isolated: crossOriginIsolated,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    })).then((found) => ({ ...found, errors }));
  } catch (error) {
    return { failed: String(error?.stack ?? error).slice(0, 2000), errors };
  } finally {
    await context.close();
  }
}

const browser = await chromium.launch({ executablePath: task.chromium, headless: true, args: FLAGS });
try {
  const found = await Promise.all(task.guests.map((guest) => visit(browser, guest)));
  process.stdout.write(JSON.stringify(Object.fromEntries(task.guests.map(({ name }, place) => [name, found[place]]))));
} finally {
  await browser.close();
}
