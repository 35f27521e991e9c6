// What a decoder has seen: keys and values of each layer, states of convolutions, handed from step to step.

/**
 * The tensors that the decoder's graph gives are what it is given next. On the GPU they stay there.
 */
export class Cache {
  /**
   * @param {any} ort
   * @param {import("./types.js").Component} decoder
   */
  constructor(ort, decoder) {
    this.ort = ort;
    const past = decoder.inputs.filter((spec) => spec.name.startsWith("past_"));
    this.past = past.map((spec) => spec.name);
    this.present = decoder.outputs.filter((spec) => spec.name.startsWith("present")).map((spec) => spec.name);
    this.shapes = past.map((spec) => spec.shape.slice(1));
    // A state has one size always, and cannot go back to what it was some tokens ago.
    this.states = this.shapes.some((shape) => shape.every((size) => typeof size === "number"));
    this.length = 0;
    /** @type {any[]} */
    this.values = [];
    this.clear();
  }

  clear() {
    this.#free(this.values);
    this.length = 0;
    this.values = this.shapes.map((shape) => {
      const dims = [1, ...shape.map((size) => (typeof size === "number" ? size : 0))];
      return new this.ort.Tensor("float32", new Float32Array(dims.reduce((a, b) => a * b)), dims);
    });
  }

  /** What the decoder takes of it. @returns {Record<string, any>} */
  feeds() {
    return Object.fromEntries(this.past.map((name, place) => [name, this.values[place]]));
  }

  /**
   * What the decoder gave in its place.
   * @param {Record<string, any>} outputs
   * @param {number} tokens That were appended.
   */
  take(outputs, tokens) {
    const old = this.values;
    this.values = this.present.map((name) => outputs[name]);
    this.length += tokens;
    this.#free(old);
  }

  /**
   * Forget the tokens from `length` on.
   * @param {number} length
   * @returns {number} `length`, or 0 where that cannot be done, and nothing is forgotten.
   */
  cut(length) {
    if (length === this.length) return length;
    if (this.states || this.values.some((value) => value.location !== "cpu")) return 0;
    this.values = this.values.map((value, place) => {
      const axis = 1 + this.shapes[place].findIndex((size) => typeof size !== "number");
      return cutAxis(this.ort, value, axis, length);
    });
    this.length = length;
    return length;
  }

  /** @param {any[]} values */
  #free(values) {
    for (const value of values) if (value.location !== "cpu") value.dispose();
  }
}

/** The first entries along an axis. @param {any} ort @param {any} tensor @param {number} axis @param {number} length */
function cutAxis(ort, tensor, axis, length) {
  const { dims, data } = tensor;
  const inner = dims.slice(axis + 1).reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
  const outer = dims.slice(0, axis).reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
  const kept = new data.constructor(outer * length * inner);
  for (let row = 0; row < outer; row++) {
    const start = row * dims[axis] * inner;
    kept.set(data.subarray(start, start + length * inner), row * length * inner);
  }
  return new ort.Tensor(tensor.type, kept, [...dims.slice(0, axis), length, ...dims.slice(axis + 1)]);
}
