// How much a browser keeps.

const MOST = 200;
const MOST_BYTES = 200_000_000;

/**
 * The newest images that are within the bounds.
 * @template {{blob: {size: number}, source: {size: number} | null, mask: {size: number} | null}} T
 * @param {T[]} all
 * @param {number} [most]
 * @param {number} [mostBytes]
 */
export function within(all, most = MOST, mostBytes = MOST_BYTES) {
  let left = mostBytes;
  const end = all.findIndex((each, index) => {
    left -= each.blob.size + (each.source?.size ?? 0) + (each.mask?.size ?? 0);
    return index >= most || (left < 0 && index > 0);
  });
  return end < 0 ? all : all.slice(0, end);
}
