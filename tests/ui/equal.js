/**
 * Fails where two values do not look the same as JSON.
 * @param {unknown} one
 * @param {unknown} other
 */
export function equal(one, other) {
  const [a, b] = [JSON.stringify(one), JSON.stringify(other)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}
