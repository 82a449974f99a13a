import { tierChoices } from "../../lego_serve/gateway/ui/static/play/tiers.js";
import { equal } from "./equal.js";

/** @type {(name: string, steps: number, evaluations: number) => import("../../lego_serve/gateway/ui/static/play/tiers.js").TierRun} */
const run = (name, steps, evaluations) => ({ name, sampler: "euler", steps, evaluations, pixels: [1, 4096] });
const RUNS = [run("fast", 20, 5), run("high", 20, 10), run("high", 28, 14)];

Deno.test("tiers stand from all of the work to the least, with what they do of the steps", () => {
  equal(tierChoices(RUNS, 20, "euler"), [
    ["exact", "exact: all steps"],
    ["high", "high: 10 of 20 steps"],
    ["fast", "fast: 5 of 20 steps"],
  ]);
});

Deno.test("a tier says which steps it was tuned for, where those asked for are others", () => {
  equal(tierChoices(RUNS, 28, "euler").slice(1), [
    ["high", "high: 14 of 28 steps"],
    ["fast", "fast: for 20 steps of euler"],
  ]);
  equal(tierChoices(RUNS, 20, "lcm")[1], ["high", "high: for 20 steps of euler, 28 steps of euler"]);
});

Deno.test("a model without tiers has all steps alone", () => {
  equal(tierChoices([], 20, "euler"), [["exact", "exact: all steps"]]);
});
