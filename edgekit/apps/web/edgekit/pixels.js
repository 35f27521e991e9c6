// What all families' preprocessing shares: pictures without transparency, tiles, patches, and normalised numbers.
import { EdgekitError } from "./errors.js";
import { resize } from "./resize.js";

/** @typedef {import("./resize.js").Picture} Picture */
/** @typedef {import("./types.js").Preprocessing} Params */

/**
 * What the vision encoder sees of one picture.
 * @typedef {object} Pixels
 * @property {Float32Array} values All entries one after the other: tiles (3, H, W), or flattened patches.
 * @property {number[]} shape Of one entry.
 * @property {number} count Entries.
 * @property {number[]} grid How they lie, in the family's own terms.
 */

const MOST_TILES = 4096;

/**
 * Red, green, blue of RGBA, what is transparent laid over white, as Pillow's alpha_composite does it.
 * @param {Uint8Array | Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function overWhite(rgba, width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const sum = (rgba[from + channel] * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
      data[to++] = alpha === 255 ? rgba[from + channel] : ((sum >>> 8) + sum) >>> 15;
    }
  }
  return { width, height, data };
}

/**
 * A picture's tiles, row by row.
 * @param {Picture} picture Of whole tiles.
 * @param {number} width Of a tile.
 * @param {number} height
 * @returns {Picture[]}
 */
export function cutTiles(picture, width, height) {
  const count = (picture.width / width) * (picture.height / height);
  if (count > MOST_TILES) {
    throw new EdgekitError(`A picture would be cut into ${count} tiles of ${width} x ${height}.`, {
      why: `No model takes more than ${MOST_TILES}.`,
      code: "picture",
    });
  }
  const tiles = [];
  for (let y = 0; y < picture.height; y += height) {
    for (let x = 0; x < picture.width; x += width) tiles.push(crop(picture, x, y, width, height));
  }
  return tiles;
}

/** @param {Picture} picture @param {number} x @param {number} y @param {number} width @param {number} height @returns {Picture} */
function crop(picture, x, y, width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const from = ((y + row) * picture.width + x) * 3;
    data.set(picture.data.subarray(from, from + width * 3), row * width * 3);
  }
  return { width, height, data };
}

/**
 * For each channel, the number that each of the 256 values becomes: rescaled in double precision, the rest in single.
 * @param {Params} params
 */
export function tables(params) {
  return params.mean.map((mean, channel) =>
    Float32Array.from({ length: 256 }, (_, value) => {
      const scaled = Math.fround(value * params.rescale_factor);
      return Math.fround(scaled - Math.fround(mean)) / Math.fround(params.std[channel]);
    }),
  );
}

/**
 * Tiles of one size as (M, 3, H, W).
 * @param {Picture[]} tiles
 * @param {Params} params
 * @param {number[]} grid
 * @returns {Pixels}
 */
export function tilesToPixels(tiles, params, grid) {
  const { width, height } = tiles[0];
  const area = width * height;
  const values = new Float32Array(tiles.length * 3 * area);
  const channels = tables(params);
  tiles.forEach((tile, number) => {
    for (let channel = 0; channel < 3; channel++) {
      const table = channels[channel];
      const start = (number * 3 + channel) * area;
      for (let place = 0; place < area; place++) values[start + place] = table[tile.data[place * 3 + channel]];
    }
  });
  return { values, shape: [3, height, width], count: tiles.length, grid };
}

/**
 * The picture resized by the bundle's own filter and order of passes.
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @param {Params} params
 */
export const resized = (picture, width, height, params) =>
  resize(picture, width, height, params.resample, params.resize_order);

/**
 * The picture in the nearest of an export's sizes: nearest in shape, then in area, by their logarithms; then the first.
 * @param {Picture} picture
 * @param {Params} params
 * @returns {Picture}
 */
export function fitPicture(picture, params) {
  const sizes = params.sizes ?? [];
  if (!sizes.length) {
    throw new EdgekitError("This bundle names no picture sizes, and its family is exported for some.", {
      fix: "Export it again for some:  --image-size 512x512",
      code: "damaged",
    });
  }
  /** @param {number[]} size */
  const gap = ([width, height]) => {
    const shape = Math.log(width / height) - Math.log(picture.width / picture.height);
    const area = Math.log(width * height) - Math.log(picture.width * picture.height);
    return [Number(Math.abs(shape).toFixed(6)), Number(Math.abs(area).toFixed(6))];
  };
  let best = sizes[0];
  for (const size of sizes.slice(1)) {
    const [one, other] = [gap(size), gap(best)];
    if (one[0] < other[0] || (one[0] === other[0] && one[1] < other[1])) best = size;
  }
  return resized(picture, best[0], best[1], params);
}

/** Half to even, as Python's round. @param {number} value */
export function roundEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** @param {string} text @param {number} count */
export const repeated = (text, count) => text.repeat(Math.max(0, count));
