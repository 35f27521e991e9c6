// The families that the ONNX target exports, by the name of their file in edgekit/families.
import { EdgekitError } from "../errors.js";
import * as gemma3 from "./gemma3.js";
import * as idefics3 from "./idefics3.js";
import * as internvl from "./internvl.js";
import * as lfm2 from "./lfm2_vl.js";
import * as llava from "./llava_onevision.js";
import * as qwen from "./qwen2_5_vl.js";

/**
 * @typedef {object} Family
 * @property {string} place What stands for a picture in a rendered prompt.
 * @property {(picture: import("../resize.js").Picture, params: import("../types.js").Preprocessing) => import("../pixels.js").Pixels} preprocess
 * @property {(grid: number[], params: import("../types.js").Preprocessing) => string} filling
 * @property {(ids: readonly number[], grids: number[][], params: import("../types.js").Preprocessing) => number[][]} positions
 * @property {(features: Float32Array, width: number, grids: number[][], params: import("../types.js").Preprocessing) => Float32Array} [pack]
 */

/** @type {Record<string, Family>} */
const FAMILIES = {
  gemma3,
  idefics3,
  internvl,
  lfm2_vl: lfm2,
  llava_onevision: llava,
  qwen2_5_vl: qwen,
  qwen3_5: qwen,
  qwen3_vl: qwen,
};

/**
 * @param {string} name
 * @returns {Family}
 */
export function familyOf(name) {
  if (Object.hasOwn(FAMILIES, name)) return FAMILIES[name];
  throw new EdgekitError(`No app library speaks for a model of family ${JSON.stringify(name)}.`, {
    why: `Those that work: ${Object.keys(FAMILIES).join(", ")}.`,
    code: "unsupported",
  });
}
