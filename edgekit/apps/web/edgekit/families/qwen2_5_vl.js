// Qwen2.5-VL and Qwen3-VL: the picture in one of the export's sizes, as patches; positions by frame, row and column.
import { EdgekitError } from "../errors.js";
import { fitPicture, tables } from "../pixels.js";

/** @typedef {import("../types.js").Preprocessing} Params */

export const place = "<|image_pad|>";

/** @param {import("../resize.js").Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const { patch, merge, temporal_patch: frames } = params;
  const image = fitPicture(picture, params);
  if (image.width % (patch * merge) || image.height % (patch * merge)) {
    throw new EdgekitError(`A picture of ${image.width} x ${image.height} pixels does not divide into blocks.`, {
      why: `This model's blocks are of ${patch * merge} pixels.`,
      code: "picture",
    });
  }
  const rows = image.height / patch;
  const cols = image.width / patch;
  const size = 3 * frames * patch * patch;
  const values = new Float32Array(rows * cols * size);
  const channels = tables(params);
  let to = 0;
  // The patches of one token stand together: blocks row by row, and in each its patches row by row.
  for (const [row, col] of inBlocks(rows, cols, merge)) {
    for (let channel = 0; channel < 3; channel++) {
      const start = to;
      for (let y = row * patch; y < (row + 1) * patch; y++) {
        let at = (y * image.width + col * patch) * 3 + channel;
        for (let x = 0; x < patch; x++, at += 3) values[to++] = channels[channel][image.data[at]];
      }
      for (let frame = 1; frame < frames; frame++, to += patch * patch) values.copyWithin(to, start, start + patch * patch);
    }
  }
  return { values, shape: [size], count: rows * cols, grid: [1, rows, cols] };
}

/** @param {number} rows @param {number} cols @param {number} merge @returns {Generator<[number, number]>} */
function* inBlocks(rows, cols, merge) {
  for (let top = 0; top < rows; top += merge) {
    for (let left = 0; left < cols; left += merge) {
      for (let row = top; row < top + merge; row++) for (let col = left; col < left + merge; col++) yield [row, col];
    }
  }
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export const filling = (grid, params) => place.repeat(grid.reduce((a, b) => a * b) / params.merge ** 2);

/**
 * M-RoPE, Qwen2-VL, arXiv:2409.12191, section 2.1: the frame, row and column of each token.
 * @param {readonly number[]} ids
 * @param {number[][]} grids
 * @param {Params} params
 * @returns {number[][]} Three axes.
 */
export function positions(ids, grids, params) {
  /** @type {number[][]} */
  const axes = [[], [], []];
  let image = 0;
  let start = 0;
  for (let at = 0; at < ids.length; ) {
    if (ids[at] !== params.image_token_id) {
      for (const axis of axes) axis.push(start);
      at++;
      start++;
      continue;
    }
    if (image >= grids.length) {
      throw new EdgekitError("A literal image token stands in the question.", { code: "prompt" });
    }
    const [frames, rows, cols] = [grids[image][0], grids[image][1] / params.merge, grids[image][2] / params.merge];
    for (let frame = 0; frame < frames; frame++) {
      for (let row = 0; row < rows; row++) {
        for (let col = 0; col < cols; col++) [frame, row, col].forEach((own, axis) => axes[axis].push(own + start));
      }
    }
    at += frames * rows * cols;
    start += Math.max(rows, cols);
    image++;
  }
  return axes;
}
