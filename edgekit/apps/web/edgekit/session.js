// A bundle's graphs in onnxruntime-web: encode pictures, append tokens, give logits. What Python's BundleSession does.
import { Cache } from "./cache.js";
import { EdgekitError } from "./errors.js";

/** @typedef {import("./types.js").ModelFile} ModelFile */
/** @typedef {import("./pixels.js").Pixels} Pixels */

/**
 * @typedef {object} Features
 * @property {Float32Array} embeds (K, D), in the pictures' order.
 * @property {Float32Array | null} deepstack (L, K, D).
 */

export class Session {
  /**
   * @param {any} ort
   * @param {ModelFile} model
   * @param {Record<string, any>} graphs Inference sessions by component.
   * @param {number} piece So many tokens are prefilled at once at most; 0 for all.
   */
  constructor(ort, model, graphs, piece) {
    this.ort = ort;
    this.model = model;
    this.graphs = graphs;
    const decoder = model.components.text_decoder;
    this.takes = new Set(decoder.inputs.map((spec) => spec.name));
    this.width = Number(decoder.inputs.find((spec) => spec.name === "inputs_embeds")?.shape.at(-1));
    this.cache = new Cache(ort, decoder);
    this.position = 0;
    // A picture's tokens that see each other must come at once.
    this.piece = model.position_axes === 2 ? 0 : piece;
  }

  /**
   * @param {any} ort onnxruntime-web.
   * @param {ModelFile} model
   * @param {(path: string) => Promise<Uint8Array>} read A file of the bundle.
   * @param {{providers: string[], onGpu?: boolean, piece?: number, onLoaded?: (component: string) => void}} options
   */
  static async open(ort, model, read, { providers, onGpu = false, piece = 0, onLoaded }) {
    /** @type {Record<string, any>} */
    const graphs = {};
    for (const [name, part] of Object.entries(model.components)) {
      /** @type {Record<string, any>} */
      const options = { executionProviders: providers, logSeverityLevel: 3, externalData: await shards(model, part.file, read) };
      if (onGpu && name === "text_decoder") {
        options.preferredOutputLocation = Object.fromEntries(
          part.outputs.map((spec) => [spec.name, spec.name === "logits" ? "cpu" : "gpu-buffer"]),
        );
      }
      try {
        graphs[name] = await ort.InferenceSession.create(await read(part.file), options);
      } catch (error) {
        for (const graph of Object.values(graphs)) await graph.release();
        throw new EdgekitError(`onnxruntime-web does not load the component ${name}.`, {
          why: String(error).slice(0, 500),
          code: "runtime",
        });
      }
      onLoaded?.(name);
    }
    return new Session(ort, model, graphs, piece);
  }

  /**
   * Features of pictures.
   * @param {Pixels[]} pictures
   * @param {import("./families/index.js").Family} family
   * @returns {Promise<Features>}
   */
  async encode(pictures, family) {
    const parts = [];
    for (const [component, values, dims] of runs(this.model, pictures)) {
      const outputs = await this.#run(component, { pixel_values: new this.ort.Tensor("float32", values, dims) });
      parts.push(this.model.components[component].outputs.map((spec) => floats(outputs[spec.name])));
    }
    if (family.pack) {
      const grids = pictures.map((one) => one.grid);
      const tiles = concatenated(parts.map((part) => part[0]));
      return { embeds: family.pack(tiles, this.width, grids, this.model.preprocessing), deepstack: null };
    }
    const embeds = concatenated(parts.map((part) => part[0]));
    return { embeds, deepstack: this.model.deepstack ? this.#layers(parts.map((part) => part[1])) : null };
  }

  /** (L, n, D) of each picture, put together along n. @param {Float32Array[]} parts */
  #layers(parts) {
    const layers = this.model.deepstack;
    const own = [];
    for (let layer = 0; layer < layers; layer++) {
      for (const part of parts) own.push(part.subarray((layer * part.length) / layers, ((layer + 1) * part.length) / layers));
    }
    return concatenated(own);
  }

  /**
   * Append a prompt, or what is new of one.
   * @param {readonly number[]} ids
   * @param {number[][]} positions By axis.
   * @param {Features | null} features Of the pictures among them.
   * @returns {Promise<Float32Array>} The logits (V,) that follow.
   */
  async prefill(ids, positions, features) {
    const places = ids.flatMap((id, at) => (id === this.model.text.image_token_id ? [at] : []));
    const slots = features ? places : [];
    if (features && places.length * this.width !== features.embeds.length) {
      throw new EdgekitError(
        `The prompt has ${places.length} image tokens but the vision encoder gave ${features.embeds.length / this.width} embeddings.`,
        { why: "The prompt and the pictures do not belong together, or a literal image token stands in the question." },
      );
    }
    const step = this.piece || ids.length;
    let logits = new Float32Array();
    for (let from = 0; from < ids.length; from += step) {
      const to = Math.min(ids.length, from + step);
      const embeds = await this.#embed(ids.slice(from, to));
      const deepstack = this.model.deepstack ? new Float32Array(this.model.deepstack * embeds.length) : null;
      slots.forEach((at, number) => {
        if (at >= from && at < to && features) this.#merge(embeds, deepstack, at - from, features, number, to - from);
      });
      logits = await this.#decode(embeds, positions.map((axis) => axis.slice(from, to)), deepstack, to - from);
    }
    return logits;
  }

  /** @param {Float32Array} embeds @param {Float32Array | null} deepstack @param {number} at @param {Features} features
   * @param {number} number @param {number} tokens */
  #merge(embeds, deepstack, at, features, number, tokens) {
    const width = this.width;
    embeds.set(features.embeds.subarray(number * width, (number + 1) * width), at * width);
    if (!deepstack || !features.deepstack) return;
    const all = features.embeds.length / width;
    for (let layer = 0; layer < this.model.deepstack; layer++) {
      const from = (layer * all + number) * width;
      deepstack.set(features.deepstack.subarray(from, from + width), (layer * tokens + at) * width);
    }
  }

  /**
   * Append one token.
   * @param {number} token
   * @returns {Promise<Float32Array>} The logits (V,) that follow.
   */
  async step(token) {
    const embeds = await this.#embed([token]);
    const deepstack = this.model.deepstack ? new Float32Array(this.model.deepstack * this.width) : null;
    return this.#decode(embeds, Array.from({ length: this.model.position_axes }, () => [this.position]), deepstack, 1);
  }

  /** @param {readonly number[]} ids @returns {Promise<Float32Array>} */
  async #embed(ids) {
    const outputs = await this.#run("token_embedding", { input_ids: this.#whole(ids, [1, ids.length]) });
    return floats(outputs[this.model.components.token_embedding.outputs[0].name]);
  }

  /** @param {Float32Array} embeds @param {number[][]} positions @param {Float32Array | null} deepstack @param {number} tokens */
  async #decode(embeds, positions, deepstack, tokens) {
    const { Tensor } = this.ort;
    this.position = positions.flat().reduce((one, other) => Math.max(one, other), 0) + 1;
    const seen = this.cache.length + tokens;
    const axes = this.model.position_axes;
    /** @type {Record<string, any>} */
    const feeds = {
      inputs_embeds: new Tensor("float32", embeds, [1, tokens, this.width]),
      attention_mask: new Tensor("int64", new BigInt64Array(seen).fill(1n), [1, seen]),
      position_ids: this.#whole(positions.flat(), axes === 1 ? [1, tokens] : [axes, 1, tokens]),
    };
    if (deepstack) feeds.deepstack_embeds = new Tensor("float32", deepstack, [this.model.deepstack, 1, tokens, this.width]);
    // What the graph does not take, as positions that it counts by itself, is left out.
    const given = Object.fromEntries(Object.entries(feeds).filter(([name]) => this.takes.has(name)));
    const outputs = await this.#run("text_decoder", { ...given, ...this.cache.feeds() });
    this.cache.take(outputs, tokens);
    const logits = floats(outputs.logits);
    if (logits.length !== tokens * this.model.vocab_size) {
      throw new EdgekitError(`The decoder gives ${logits.length} logits, not ${tokens} x ${this.model.vocab_size}.`);
    }
    return logits.slice(-this.model.vocab_size);
  }

  /** @param {readonly number[]} numbers @param {number[]} dims */
  #whole(numbers, dims) {
    return new this.ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), dims);
  }

  /** @param {string} component @param {Record<string, any>} feeds @returns {Promise<Record<string, any>>} */
  async #run(component, feeds) {
    try {
      return await this.graphs[component].run(feeds);
    } catch (error) {
      const text = typeof error === "number" ? `error ${error} of its WebAssembly, most often want of memory` : String(error);
      throw new EdgekitError(`onnxruntime-web does not run the component ${component}.`, {
        why: text.slice(0, 500),
        fix: "Close other pages, or take fewer or smaller pictures, or a smaller precision.",
        code: "runtime",
      });
    }
  }

  reset() {
    this.position = 0;
    this.cache.clear();
  }

  /** @param {number} length @returns {number} Tokens that are kept: so many, or 0. */
  rewind(length) {
    return this.cache.cut(length);
  }

  async release() {
    this.cache.clear();
    for (const graph of Object.values(this.graphs)) await graph.release();
    this.graphs = {};
  }
}

/**
 * Weights beside a graph, where one file cannot hold them.
 * @param {ModelFile} model
 * @param {string} graph
 * @param {(path: string) => Promise<Uint8Array>} read
 */
async function shards(model, graph, read) {
  const beside = model.files.filter((file) => file.path.startsWith(`${graph}_data`));
  return Promise.all(beside.map(async ({ path }) => ({ path: path.split("/").at(-1), data: await read(path) })));
}

/**
 * Which encoder takes which part of the pixels: tiles of all pictures at once, patches picture by picture.
 * @param {ModelFile} model
 * @param {Pixels[]} pictures
 * @returns {Generator<[string, Float32Array, number[]]>}
 */
function* runs(model, pictures) {
  const buckets = Object.values(model.buckets);
  if (buckets.every((bucket) => bucket.grid === null)) {
    const count = pictures.reduce((sum, one) => sum + one.count, 0);
    const values = pictures.length === 1 ? pictures[0].values : concatenated(pictures.map((one) => one.values));
    yield [buckets[0]?.component ?? "vision_encoder", values, [1, count, ...pictures[0].shape]];
    return;
  }
  for (const picture of pictures) {
    const bucket = buckets.find((one) => one.grid?.join() === picture.grid.join());
    if (!bucket) {
      throw new EdgekitError(`A picture of ${picture.grid.join(" x ")} patches has no vision encoder here.`, { code: "picture" });
    }
    yield [bucket.component, picture.values, [picture.count, ...picture.shape]];
  }
}

/** @param {any} tensor @returns {Float32Array} */
const floats = (tensor) => tensor.data;

/** @param {Float32Array[]} parts */
function concatenated(parts) {
  if (parts.length === 1) return parts[0];
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
