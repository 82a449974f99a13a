// A mask as a file: transparent where the image may change, as the API wants it.

/**
 * @param {import("./maskbits.js").Mask} mask
 * @returns {Promise<Blob>}
 */
export async function fileOf(mask) {
  const canvas = new OffscreenCanvas(mask.width, mask.height);
  canvas.getContext("2d")?.putImageData(new ImageData(mask.pixels(), mask.width, mask.height), 0, 0);
  return await canvas.convertToBlob({ type: "image/png" });
}

/**
 * Marks what a file leaves transparent; one without transparency marks what it has white.  Of another size, it is fitted.
 * @param {import("./maskbits.js").Mask} mask
 * @param {Blob} file
 */
export async function readInto(mask, file) {
  const { width, height } = mask;
  const image = await createImageBitmap(file);
  const context =
    /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d"));
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, width, height);
  mask.do({ kind: "load", bits: bitsOf(context.getImageData(0, 0, width, height).data) });
}

/**
 * The marked pixels of an image's red, green, blue and alpha, a byte each.
 * @param {Uint8ClampedArray} pixels
 */
export function bitsOf(pixels) {
  const count = pixels.length / 4;
  const hasAlpha = pixels.some((value, at) => at % 4 === 3 && value < 255);
  const isMarked = hasAlpha
    ? (/** @type {number} */ at) => pixels[at + 3] < 255
    : (/** @type {number} */ at) => pixels[at] + pixels[at + 1] + pixels[at + 2] > 382;
  return Uint8Array.from({ length: count }, (_, at) => (isMarked(4 * at) ? 1 : 0));
}
