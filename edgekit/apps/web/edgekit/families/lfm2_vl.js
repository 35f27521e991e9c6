// LFM2-VL: the picture in one of the export's sizes, one view, as patches.
import { fitPicture, tables } from "../pixels.js";
import { plainPositions } from "../positions.js";

/** @typedef {import("../types.js").Preprocessing} Params */

export const place = "<image>";
export const positions = plainPositions;

/** @param {import("../resize.js").Picture} picture @param {Params} params */
export function preprocess(picture, params) {
  const patch = params.encoder_patch_size;
  const image = fitPicture(picture, params);
  const rows = Math.floor(image.height / patch);
  const cols = Math.floor(image.width / patch);
  const size = patch * patch * 3;
  const values = new Float32Array(rows * cols * size);
  const channels = tables(params);
  let to = 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      for (let y = row * patch; y < (row + 1) * patch; y++) {
        let at = (y * image.width + col * patch) * 3;
        for (let x = 0; x < patch * 3; x++) values[to++] = channels[x % 3][image.data[at++]];
      }
    }
  }
  return { values, shape: [size], count: rows * cols, grid: [1, 1, rows, cols] };
}

/** What a picture's place in the prompt becomes. @param {number[]} grid @param {Params} params */
export function filling(grid, params) {
  const slots = Math.floor((grid[2] * grid[3]) / params.downsample_factor ** 2);
  return `<|image_start|>${place.repeat(slots)}<|image_end|>`;
}
