// Round figures for an axis.

/**
 * About five round numbers from zero to a length.
 * @param {number} length
 * @returns {number[]}
 */
export function ticksOf(length) {
  const rough = length / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? rough;
  const ticks = [];
  for (let at = 0; at * step < length * 0.97; at++) ticks.push(Number((at * step).toPrecision(6)));
  return ticks;
}
