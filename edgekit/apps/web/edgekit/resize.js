// Pillow's resampling of 8-bit pictures, bit for bit: a browser's own is another at every size.
//
// Source: Pillow's src/libImaging/Resample.c and Geometry.c (ImagingScaleAffine for the nearest neighbour).

/**
 * @typedef {object} Picture
 * @property {number} width Pixels.
 * @property {number} height
 * @property {Uint8Array} data Red, green, blue of each pixel, row by row.
 */
/** @typedef {"columns_first" | "narrow_rows_first" | "tall_rows_first"} Order Pillow's to 12.1, 12.3, and from 13 on. */

const BITS = 22;

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** @param {number} x */
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** @param {number} x */
function hamming(x) {
  x = Math.abs(x);
  if (x === 0) return 1;
  if (x >= 1) return 0;
  x *= Math.PI;
  return (Math.sin(x) / x) * (0.54 + 0.46 * Math.cos(x));
}

/** By Pillow's number: how far a filter reaches, and its weight. @type {Record<number, [number, (x: number) => number]>} */
const FILTERS = {
  1: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
  2: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  3: [2, cubic],
  4: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  5: [1, hamming],
};

/**
 * @param {Picture} picture
 * @param {number} width
 * @param {number} height
 * @param {number} filter Pillow's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
 * @param {Order} [order]
 * @returns {Picture}
 */
export function resize(picture, width, height, filter, order = "columns_first") {
  if (width === picture.width && height === picture.height) return picture;
  if (filter === 0) return nearest(picture, width, height);
  const lost = picture.height - height;
  const tall = order === "tall_rows_first" && lost > 2 * (picture.width - width);
  const narrow = order === "narrow_rows_first" && picture.height > 100 * picture.width;
  const rowsFirst = lost > 0 && (tall || narrow);
  const half = rowsFirst ? rows(picture, height, filter) : columns(picture, width, filter);
  return rowsFirst ? columns(half, width, filter) : rows(half, height, filter);
}

/**
 * For each place of the new axis: its first place on the old one, and its weights in fixed point.
 * @param {number} size
 * @param {number} wanted
 * @param {number} filter
 */
function weights(size, wanted, filter) {
  const [reach, weight] = FILTERS[filter];
  const scale = size / wanted;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  const inverse = 1 / wide;
  const taps = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(wanted);
  const count = new Int32Array(wanted);
  const fixed = new Int32Array(wanted * taps);
  const own = new Float64Array(taps);
  for (let place = 0; place < wanted; place++) {
    const centre = (place + 0.5) * scale;
    const from = Math.max(0, Math.trunc(centre - support + 0.5));
    const many = Math.min(size, Math.trunc(centre + support + 0.5)) - from;
    let total = 0;
    for (let tap = 0; tap < many; tap++) {
      own[tap] = weight((tap + from - centre + 0.5) * inverse);
      total += own[tap];
    }
    for (let tap = 0; tap < many; tap++) {
      const share = total !== 0 ? own[tap] / total : own[tap];
      fixed[place * taps + tap] = Math.trunc(share * 2 ** BITS + (share < 0 ? -0.5 : 0.5));
    }
    first[place] = from;
    count[place] = many;
  }
  return { taps, first, count, fixed };
}

/** @param {number} sum */
const clip = (sum) => (sum < 0 ? 0 : sum > 255 ? 255 : sum);

/** @param {Picture} picture @param {number} width @param {number} filter @returns {Picture} */
function columns(picture, width, filter) {
  if (width === picture.width) return picture;
  const { taps, first, count, fixed } = weights(picture.width, width, filter);
  const { height, data } = picture;
  const out = new Uint8Array(width * height * 3);
  let to = 0;
  for (let row = 0; row < height; row++) {
    const start = row * picture.width * 3;
    for (let column = 0; column < width; column++) {
      let red = 1 << (BITS - 1);
      let green = red;
      let blue = red;
      let at = start + first[column] * 3;
      const begin = column * taps;
      for (let tap = begin; tap < begin + count[column]; tap++, at += 3) {
        const share = fixed[tap];
        red += data[at] * share;
        green += data[at + 1] * share;
        blue += data[at + 2] * share;
      }
      out[to++] = clip(red >> BITS);
      out[to++] = clip(green >> BITS);
      out[to++] = clip(blue >> BITS);
    }
  }
  return { width, height, data: out };
}

/** @param {Picture} picture @param {number} height @param {number} filter @returns {Picture} */
function rows(picture, height, filter) {
  if (height === picture.height) return picture;
  const { taps, first, count, fixed } = weights(picture.height, height, filter);
  const { width, data } = picture;
  const line = width * 3;
  const out = new Uint8Array(line * height);
  const sums = new Int32Array(line);
  for (let row = 0; row < height; row++) {
    sums.fill(1 << (BITS - 1));
    for (let tap = 0; tap < count[row]; tap++) {
      const share = fixed[row * taps + tap];
      const from = (first[row] + tap) * line;
      for (let place = 0; place < line; place++) sums[place] += data[from + place] * share;
    }
    const to = row * line;
    for (let place = 0; place < line; place++) out[to + place] = clip(sums[place] >> BITS);
  }
  return { width, height, data: out };
}

/** @param {Picture} picture @param {number} width @param {number} height @returns {Picture} */
function nearest(picture, width, height) {
  const across = steps(picture.width, width);
  const down = steps(picture.height, height);
  const out = new Uint8Array(width * height * 3);
  let to = 0;
  for (const row of down) {
    for (const column of across) {
      const at = (row * picture.width + column) * 3;
      out[to++] = picture.data[at];
      out[to++] = picture.data[at + 1];
      out[to++] = picture.data[at + 2];
    }
  }
  return { width, height, data: out };
}

/** Added up and not multiplied, as there. @param {number} size @param {number} wanted */
function steps(size, wanted) {
  const scale = size / wanted;
  const places = new Int32Array(wanted);
  let at = scale * 0.5;
  for (let place = 0; place < wanted; place++, at += scale) places[place] = Math.min(size - 1, Math.trunc(at));
  return places;
}
