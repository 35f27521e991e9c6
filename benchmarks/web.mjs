// The web library in Chromium, a round of questions for each line of standard input:  node web.mjs TASK.json
//   task: {modules, chromium, url, threads, most, questions: [{text, pictures: [{width, height, rgb}]}]}
// It prints a line of JSON when the model is loaded, and one for each round.
import fs from "node:fs";
import readline from "node:readline";
import { createRequire } from "node:module";

const task = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(`${task.modules}/`)("playwright-core");
const browser = await chromium.launch({
  executablePath: task.chromium, headless: true,
  args: ["--no-sandbox", "--disable-background-networking", "--no-first-run", "--disable-component-update"],
});
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
try {
  const page = await browser.newPage();
  await page.goto(task.url);
  say(await page.evaluate(async ({ threads, questions }) => {
    const { VisionModel } = await import("./edgekit/index.js");
    globalThis.model = await VisionModel.open("model/app/model.json", { runtime: "wasm", threads });
    globalThis.questions = questions.map(({ text, pictures }) => ({
      text,
      pictures: pictures.map(({ width, height, rgb }) => ({ width, height, data: Uint8Array.from(atob(rgb), (one) => one.charCodeAt(0)) })),
    }));
    return { ...globalThis.model.runtime, agent: navigator.userAgent, isolated: crossOriginIsolated };
  }, task));
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    say(await page.evaluate(async (maxNewTokens) => {
      const said = [];
      for (const { text, pictures } of globalThis.questions) {
        for await (const event of globalThis.model.answer(text, pictures, { maxNewTokens, generation: "greedy" })) {
          if (event.type === "done") said.push({ ids: event.tokenIds, ...event.timings });
        }
      }
      return said;
    }, task.most));
  }
} finally {
  await browser.close();
}
