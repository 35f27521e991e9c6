// Idefics3 and SmolVLM: resized by the longer edge, perhaps split into tiles beside a view of the whole.
import { cutTiles, resized, tilesToPixels } from "../pixels.js";
import { plainPositions } from "../positions.js";

/** @typedef {import("../types.js").Preprocessing} Params */

const FAKE = "<fake_token_around_image>";
const MAX_EDGE = 4096; // the processor's own bound on a resized picture

export const place = "<image>";
export const positions = plainPositions;

/** @param {import("../resize.js").Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const tile = /** @type {number} */ (params.tile);
  let image = picture;
  if (params.do_resize) {
    const [width, height] = params.resized ?? longestEdge(image.width, image.height, params.longest_edge);
    image = resized(image, width, height, params);
  }
  if (!params.split) return tilesToPixels([resized(image, tile, tile, params)], params, [0, 0]);
  const [width, height] = wholeTiles(image.width, image.height, tile);
  image = resized(image, width, height, params);
  if (width <= tile && height <= tile) return tilesToPixels([image], params, [0, 0]);
  const tiles = [...cutTiles(image, tile, tile), resized(image, tile, tile, params)];
  return tilesToPixels(tiles, params, [height / tile, width / tile]);
}

/** The longer edge at `longest`, the shorter made even. @param {number} width @param {number} height @param {number} longest */
function longestEdge(width, height, longest) {
  let ratio = width / height;
  if (width >= height) {
    width = longest;
    height = Math.trunc(longest / ratio);
    height += height % 2;
  } else {
    width = Math.trunc(longest * ratio);
    height = longest;
    width += width % 2;
  }
  width = Math.max(width, 1);
  height = Math.max(height, 1);
  ratio = width / height;
  if (width >= height && width > MAX_EDGE) {
    width = MAX_EDGE;
    height = Math.trunc(MAX_EDGE / ratio);
  } else if (height > width && height > MAX_EDGE) {
    width = Math.trunc(MAX_EDGE * ratio);
    height = MAX_EDGE;
  }
  return [Math.max(width, 1), Math.max(height, 1)];
}

/** Rounded up to whole tiles, the longer edge first. @param {number} width @param {number} height @param {number} tile */
function wholeTiles(width, height, tile) {
  const ratio = width / height;
  if (width >= height) {
    width = Math.ceil(width / tile) * tile;
    height = Math.ceil(Math.trunc(width / ratio) / tile) * tile;
  } else {
    height = Math.ceil(height / tile) * tile;
    width = Math.ceil(Math.trunc(height * ratio) / tile) * tile;
  }
  return [width, height];
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export function filling([rows, cols], params) {
  const slots = place.repeat(params.image_seq_len);
  const whole = `${FAKE}<global-img>${slots}${FAKE}`;
  if (rows === 0) return whole;
  let text = "";
  for (let row = 1; row <= rows; row++) {
    for (let col = 1; col <= cols; col++) text += `${FAKE}<row_${row}_col_${col}>${slots}`;
    text += "\n";
  }
  return `${text}\n${whole}`;
}
