// InternVL: up to max_tiles square tiles of the grid nearest to the picture's shape, and a view of the whole.
import { cutTiles, resized, tilesToPixels } from "../pixels.js";
import { plainPositions } from "../positions.js";

/** @typedef {import("../types.js").Preprocessing} Params */

export const place = "<IMG_CONTEXT>";
export const positions = plainPositions;

/** @param {import("../resize.js").Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const [width, height] = /** @type {number[]} */ (params.tile);
  if (params.max_tiles <= 1) {
    return tilesToPixels([params.do_resize ? resized(picture, width, height, params) : picture], params, [1]);
  }
  const [cols, rows] = canvas(picture, params);
  const tiles = cutTiles(resized(picture, cols * width, rows * height, params), width, height);
  if (tiles.length > 1) tiles.push(resized(picture, width, height, params));
  return tilesToPixels(tiles, params, [tiles.length]);
}

/**
 * (columns, rows) nearest to the picture's shape; of two as near, the larger while the picture can fill half.
 * @param {import("../resize.js").Picture} picture
 * @param {Params} params
 */
function canvas(picture, params) {
  /** @type {number[][]} */
  const shapes = [];
  for (let c = 1; c <= params.max_tiles; c++) {
    for (let r = 1; r <= params.max_tiles; r++) {
      if (c * r >= params.min_tiles && c * r <= params.max_tiles) shapes.push([c, r]);
    }
  }
  shapes.sort((one, other) => one[0] * one[1] - other[0] * other[1]);
  const [width, height] = /** @type {number[]} */ (params.tile);
  let best = [1, 1];
  let nearest = Infinity;
  for (const [cols, rows] of shapes) {
    const gap = Math.abs(picture.width / picture.height - cols / rows);
    const fills = picture.width * picture.height > 0.5 * width * height * cols * rows;
    if (gap < nearest || (gap === nearest && fills)) {
      best = [cols, rows];
      nearest = gap;
    }
  }
  return best;
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export const filling = ([tiles], params) => `<img>${place.repeat(params.image_seq_len * tiles)}</img>`;
