// From a file or an element to red, green and blue, as exactly as a browser lets one.
import { EdgekitError } from "./errors.js";
import { overWhite } from "./pixels.js";

/** @typedef {import("./resize.js").Picture} Picture */

const LARGEST = 1 << 14; // pixels of an edge

/**
 * What a worker can take: files, bitmaps and raw pixels; elements are turned into bitmaps.
 * @param {import("./types.js").ImageSource} source
 * @returns {Promise<Blob | ImageBitmap | ImageData | Picture>}
 */
export async function transferable(source) {
  if (source instanceof Blob || source instanceof ImageData || source instanceof ImageBitmap) return source;
  if ("data" in source && source.data instanceof Uint8Array) return checked(source);
  return createImageBitmap(/** @type {any} */ (source), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** @param {Picture} picture @returns {Picture} */
function checked(picture) {
  const { width, height, data } = picture;
  const whole = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!whole || data.length !== width * height * 3) {
    throw new EdgekitError(`A picture of ${width} x ${height} pixels has ${data?.length} bytes, not 3 for each pixel.`, { code: "picture" });
  }
  return { width, height, data };
}

/**
 * @param {Blob | ImageBitmap | ImageData | Picture} given
 * @returns {Promise<Picture>}
 */
export async function decodePicture(given) {
  if (given instanceof ImageData) return overWhite(given.data, given.width, given.height);
  if (given instanceof Blob) return decodeFile(given);
  if (given instanceof ImageBitmap) return readBitmap(given);
  return checked(given);
}

/** @param {Blob} file */
async function decodeFile(file) {
  let bitmap;
  try {
    // Turned upright by EXIF, and no colour changed by a profile: so did the reference.
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new EdgekitError("This file is no picture that the browser reads.", { why: String(error), code: "picture" });
  }
  try {
    return readBitmap(bitmap);
  } finally {
    bitmap.close();
  }
}

/** @param {ImageBitmap} bitmap @returns {Picture} */
function readBitmap(bitmap) {
  const { width, height } = bitmap;
  if (Math.max(width, height) > LARGEST) {
    throw new EdgekitError(`A picture of ${width} x ${height} pixels is too large.`, { why: `Edges may have ${LARGEST}.`, code: "picture" });
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new EdgekitError("The browser gives no canvas to read a picture with.", { code: "picture" });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  let opaque = true;
  for (let at = 3; opaque && at < data.length; at += 4) opaque = data[at] === 255;
  // A canvas holds colours times their alpha in 8 bits, and cannot give them back as they were; WebGL can.
  return overWhite(opaque ? data : (unpremultiplied(bitmap) ?? data), width, height);
}

/** RGBA as the file has it; null where there is no WebGL, or not for so large a picture. @param {ImageBitmap} bitmap */
function unpremultiplied(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const frame = gl.createFramebuffer();
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) return null;
  const data = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return data;
}
