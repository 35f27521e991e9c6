// Runs the library's pure functions on Node: a JSON document in, one out. What is asked stands in CALLS.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [library, asked] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(library, name)).href);
const { Tokenizer } = await load("tokenizer.js");
const { resize } = await load("resize.js");
const { overWhite } = await load("pixels.js");
const { familyOf } = await load("families/index.js");
const { fillPlaces, promptIds, render } = await load("prompt.js");
const { steps } = await load("generation.js");
const { shares, argmax } = await load("sampling.js");
const { Cache } = await load("cache.js");
const { TextStream } = await load("stream.js");
const { Sha256, sha256 } = await load("sha256.js");
const { compilePattern } = await load("patterns.js");
const { strip, stripStart } = await load("unicode.js");

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const picture = ({ picture: { width, height, rgb } }) => ({ width, height, data: bytes(rgb) });
const floats = (text) => new Float32Array(Uint8Array.from(bytes(text)).buffer);
const tokenizers = new Map();
function tokenizer(file) {
  if (!tokenizers.has(file)) tokenizers.set(file, new Tokenizer(JSON.parse(fs.readFileSync(file, "utf8"))));
  return tokenizers.get(file);
}

const CALLS = {
  encode: ({ file, texts }) => texts.map((text) => tokenizer(file).encode(text)),
  decode: ({ file, ids }) => ids.map((one) => tokenizer(file).decode(one)),
  resize: ({ width, height, filter, order, ...given }) => base64(resize(picture(given), width, height, filter, order).data),
  white: ({ rgba, width, height }) => base64(overWhite(bytes(rgba), width, height).data),
  preprocess({ family, params, ...given }) {
    const { values, shape, count, grid } = familyOf(family).preprocess(picture(given), params);
    return { values: base64(values), shape: [count, ...shape], grid };
  },
  filling: ({ family, grid, params }) => familyOf(family).filling(grid, params),
  fill: ({ text, place, fillings }) => fillPlaces(text, place, fillings),
  positions: ({ family, ids, grids, params }) => familyOf(family).positions(ids, grids, params),
  pack: ({ family, features, width, grids, params }) => base64(familyOf(family).pack(floats(features), width, grids, params)),
  render: ({ prompt, messages }) => render(prompt, messages),
  promptIds: ({ prompt, file, text }) => promptIds(prompt, tokenizer(file), text),
  rules({ settings, prompt, limit, ends, logits, answer }) {
    const changed = floats(logits);
    for (const step of steps(settings, prompt, limit, ends)) step(changed, [...prompt, ...answer]);
    return base64(changed);
  },
  shares: ({ logits, sampling }) => Array.from(shares(floats(logits), sampling)),
  argmax: ({ logits }) => argmax(floats(logits)),
  stream({ file, ids, stops }) {
    const stream = new TextStream((given) => stripStart(tokenizer(file).decode(given)), stops);
    const pieces = [];
    for (const id of ids) {
      pieces.push(stream.push(id));
      if (stream.stopped) break;
    }
    pieces.push(stream.finish());
    return { pieces, text: stream.text, stopped: stream.stopped };
  },
  strip: ({ texts }) => texts.map(strip),
  sha256: async ({ data, cuts }) => {
    const whole = bytes(data);
    const own = new Sha256();
    let at = 0;
    for (const cut of [...cuts, whole.length]) {
      own.update(whole.subarray(at, cut));
      at = cut;
    }
    return [own.digest(), await sha256(whole)];
  },
  // A cache of one key and what is left of it, without a runtime.
  cut({ shape, dims, data, length }) {
    class Tensor {
      constructor(type, data, dims) {
        Object.assign(this, { type, data, dims, location: "cpu" });
      }
    }
    const cache = new Cache({ Tensor }, { inputs: [{ name: "past_key_values.0.key", shape }], outputs: [{ name: "present.0.key", shape }] });
    cache.take({ "present.0.key": new Tensor("float32", floats(data), dims) }, dims[2]);
    const kept = cache.cut(length);
    return { kept, dims: cache.values[0].dims, data: base64(cache.values[0].data), length: cache.length };
  },
  split: ({ pattern, text }) => Array.from(text.matchAll(compilePattern(pattern)), (match) => match[0]),
};

const answers = [];
for (const { call, ...given } of JSON.parse(fs.readFileSync(asked, "utf8"))) {
  try {
    answers.push({ ok: await CALLS[call](given) });
  } catch (error) {
    answers.push({ error: error.name, message: error.message });
  }
}
process.stdout.write(JSON.stringify(answers));
