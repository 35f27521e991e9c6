// LLaVA-OneVision: a view of the whole, and tiles of the best of a list of canvases; a learned newline ends each row.
import { cutTiles, resized, tilesToPixels } from "../pixels.js";
import { plainPositions } from "../positions.js";

/** @typedef {import("../types.js").Preprocessing} Params */
/** @typedef {import("../resize.js").Picture} Picture */

export const place = "<image>";
export const positions = plainPositions;

/** @param {Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const tile = /** @type {number} */ (params.tile);
  const [height, width] = canvasOf(picture.height, picture.width, params.canvases);
  const across = width / picture.width;
  const down = height / picture.height;
  const fitted =
    across < down
      ? [width, Math.min(Math.ceil(picture.height * across), height)]
      : [Math.min(Math.ceil(picture.width * down), width), height];
  const canvas = paste(resized(picture, fitted[0], fitted[1], params), width, height);
  const tiles = [resized(picture, tile, tile, params), ...cutTiles(canvas, tile, tile)];
  return tilesToPixels(tiles, params, [picture.height, picture.width]);
}

/** In the middle of black. @param {Picture} picture @param {number} width @param {number} height @returns {Picture} */
function paste(picture, width, height) {
  const data = new Uint8Array(width * height * 3);
  const left = Math.floor((width - picture.width) / 2);
  const top = Math.floor((height - picture.height) / 2);
  for (let row = 0; row < picture.height; row++) {
    const from = row * picture.width * 3;
    data.set(picture.data.subarray(from, from + picture.width * 3), ((top + row) * width + left) * 3);
  }
  return { width, height, data };
}

/**
 * (height, width) of the canvas that keeps most of a picture's pixels; of two as good, the one with less waste.
 * @param {number} height
 * @param {number} width
 * @param {number[][]} canvases
 */
function canvasOf(height, width, canvases) {
  let best = [0, 0];
  let most = 0;
  let least = Infinity;
  for (const canvas of canvases) {
    const scale = Math.min(canvas[1] / width, canvas[0] / height);
    const kept = Math.min(Math.trunc(width * scale) * Math.trunc(height * scale), width * height);
    const waste = canvas[0] * canvas[1] - kept;
    if (kept > most || (kept === most && waste < least)) {
      best = canvas;
      most = kept;
      least = waste;
    }
  }
  return best;
}

/** Of a picture's tiles: rows and columns of tiles, of tokens without the padding, and of tokens in the end.
 * @param {number[]} grid @param {Params} params */
function layout([high, wide], params) {
  const { per_side: side, max_tiles: most } = params;
  const tile = /** @type {number} */ (params.tile);
  const [height, width] = canvasOf(high, wide, params.canvases);
  const rows = Math.floor(height / tile);
  const cols = Math.floor(width / tile);
  let keptRows = rows * side;
  let keptCols = cols * side;
  if (wide / high > keptCols / keptRows) {
    keptRows -= Math.floor((keptRows - Math.trunc(Number((high * (keptCols / wide)).toFixed(7)))) / 2) * 2;
  } else {
    keptCols -= Math.floor((keptCols - Math.trunc(Number((wide * (keptRows / high)).toFixed(7)))) / 2) * 2;
  }
  const shrink = Math.sqrt((keptRows * keptCols) / (most * side ** 2));
  const outRows = shrink > 1.1 ? floorDivide(keptRows, shrink) : keptRows;
  const outCols = shrink > 1.1 ? floorDivide(keptCols, shrink) : keptCols;
  return { rows, cols, keptRows, keptCols, outRows, outCols };
}

/** As Python's // of floats, which asks for the rest first. @param {number} value @param {number} by */
function floorDivide(value, by) {
  const whole = (value - (value % by)) / by;
  const low = Math.floor(whole);
  return whole - low > 0.5 ? low + 1 : low;
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export function filling(grid, params) {
  const { outRows, outCols } = layout(grid, params);
  return place.repeat(params.per_side ** 2 + outRows * (outCols + 1));
}

/**
 * Pictures' tokens from their tiles'.
 * @param {Float32Array} features (M, N, D), the last token of each tile the newline.
 * @param {number} width D.
 * @param {number[][]} grids
 * @param {Params} params
 * @returns {Float32Array} (K, D).
 */
export function pack(features, width, grids, params) {
  const side = params.per_side;
  const tokens = side * side + 1;
  /** @type {Float32Array[]} */
  const parts = [];
  let start = 0;
  for (const grid of grids) {
    const own = layout(grid, params);
    parts.push(features.subarray(start * tokens * width, (start * tokens + side * side) * width));
    const newline = features.subarray((start * tokens + side * side) * width, (start + 1) * tokens * width);
    const laid = laidOut(features, width, start + 1, own, side);
    const scaled = scaledRows(laid, own.keptRows, own.outRows, own.keptCols * width);
    for (let row = 0; row < own.outRows; row++) {
      const line = scaled.subarray(row * own.keptCols * width, (row + 1) * own.keptCols * width);
      parts.push(scaledRows(line, own.keptCols, own.outCols, width), newline);
    }
    start += 1 + own.rows * own.cols;
  }
  return joined(parts);
}

/** Tiles as the picture they are of, its padding cut off: (keptRows, keptCols, D).
 * @param {Float32Array} features @param {number} width @param {number} first @param {ReturnType<typeof layout>} own
 * @param {number} side */
function laidOut(features, width, first, own, side) {
  const top = Math.floor((own.rows * side - own.keptRows) / 2);
  const left = Math.floor((own.cols * side - own.keptCols) / 2);
  const out = new Float32Array(own.keptRows * own.keptCols * width);
  for (let row = 0; row < own.keptRows; row++) {
    for (let col = 0; col < own.keptCols; col++) {
      const [y, x] = [row + top, col + left];
      const tile = first + Math.floor(y / side) * own.cols + Math.floor(x / side);
      const token = tile * (side * side + 1) + (y % side) * side + (x % side);
      out.set(features.subarray(token * width, (token + 1) * width), (row * own.keptCols + col) * width);
    }
  }
  return out;
}

/**
 * Linear interpolation along the first axis, as torch's interpolate without aligned corners, in single precision.
 * @param {Float32Array} given (count, width).
 * @param {number} count
 * @param {number} wanted
 * @param {number} width
 */
function scaledRows(given, count, wanted, width) {
  if (wanted === count) return given;
  const out = new Float32Array(wanted * width);
  const scale = Math.fround(count / wanted);
  for (let place = 0; place < wanted; place++) {
    const at = Math.max(Math.fround(Math.fround(Math.fround(place + 0.5) * scale) - 0.5), 0);
    const low = Math.trunc(at);
    const high = Math.min(low + 1, count - 1);
    const share = Math.fround(at - low);
    const rest = Math.fround(1 - share);
    for (let axis = 0; axis < width; axis++) {
      const one = Math.fround(given[low * width + axis] * rest);
      out[place * width + axis] = one + Math.fround(given[high * width + axis] * share);
    }
  }
  return out;
}

/** @param {Float32Array[]} parts */
function joined(parts) {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
