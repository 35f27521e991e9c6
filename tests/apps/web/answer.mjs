// Answers of a bundle by the library and onnxruntime-web on Node: questions of a JSON document, and its self-test.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [library, dist, asked] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(library, name)).href);
const { Engine } = await load("engine.js");
const { Session } = await load("session.js");
const { Tokenizer } = await load("tokenizer.js");
const { question } = await load("prompt.js");
const { last, selfTest } = await load("selftest.js");

const ort = await import(pathToFileURL(path.join(dist, "ort.wasm.min.mjs")).href);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = pathToFileURL(`${dist}/`).href;
ort.env.logLevel = "error";

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const { bundle, questions = [], maxNewTokens = 8, tests = true, options = {}, piece = 0 } = JSON.parse(fs.readFileSync(asked, "utf8"));
const read = async (name) => new Uint8Array(fs.readFileSync(path.join(bundle, name)));
const json = async (name) => JSON.parse(fs.readFileSync(path.join(bundle, name), "utf8"));

const model = await json("app/model.json");
const session = await Session.open(ort, model, read, { providers: ["wasm"], piece });
const engine = new Engine(model, await json("app/prompt.json"), new Tokenizer(await json("tokenizer.json")), session);
const said = [];
for (const { text, pictures } of questions) {
  const images = pictures.map(({ width, height, rgb }) => ({ width, height, data: bytes(rgb) }));
  const events = engine.answer([question(text, images.length)], images, { maxNewTokens, generation: "greedy", ...options });
  const { tokenIds, text: own, finish } = await last(events);
  said.push({ ids: tokenIds, text: own, finish });
}
const tested = tests ? await selfTest(engine, read) : null;
await session.release();
process.stdout.write(JSON.stringify({ said, tested }));
