// Gemma 3: one square view of each picture; positions say where the block begins of which all tokens see each other.
import { resized, tilesToPixels } from "../pixels.js";

/** @typedef {import("../types.js").Preprocessing} Params */

export const place = "<start_of_image>";

/** @param {import("../resize.js").Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const [width, height] = /** @type {number[]} */ (params.tile);
  return tilesToPixels([resized(picture, width, height, params)], params, [1]);
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export const filling = (grid, params) =>
  `\n\n${place}${"<image_soft_token>".repeat(params.image_seq_len)}<end_of_image>\n\n`;

/**
 * Places, and for a picture's tokens the place of its first, for each other token its own.
 * @param {readonly number[]} ids
 * @param {number[][]} grids
 * @param {Params} params
 */
export function positions(ids, grids, params) {
  const blocks = ids.map((_, at) => at);
  for (let at = 1; at < ids.length; at++) {
    if (ids[at] === params.image_token_id && ids[at - 1] === params.image_token_id) blocks[at] = blocks[at - 1];
  }
  return [ids.map((_, at) => at), blocks];
}
