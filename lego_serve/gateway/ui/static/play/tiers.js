// The tiers of a model: how much of the work that is asked for is done.

/** @typedef {{name: string, sampler: string, steps: number, evaluations: number, pixels: [number, number]}} TierRun */

const NAMES = ["high", "balanced", "fast", "turbo"]; // from most of the work to the least

/**
 * The tiers to choose from, each with what it does in place of the steps now asked for, or with those it was tuned for.
 * @param {TierRun[]} runs
 * @param {number} steps
 * @param {string} sampler
 * @returns {[string, string][]}
 */
export function tierChoices(runs, steps, sampler) {
  const known = NAMES.filter((name) => runs.some((run) => run.name === name));
  return [["exact", "exact: all steps"], ...known.map((name) => choiceOf(name, runs, steps, sampler))];
}

/** @type {(name: string, runs: TierRun[], steps: number, sampler: string) => [string, string]} */
function choiceOf(name, runs, steps, sampler) {
  const own = runs.filter((run) => run.name === name);
  const fitting = own.find((run) => run.steps === steps && run.sampler === sampler);
  if (fitting) return [name, `${name}: ${fitting.evaluations} of ${steps} steps`];
  const others = new Set(own.map((run) => `${run.steps} steps of ${run.sampler}`));
  return [name, `${name}: for ${[...others].join(", ")}`];
}
