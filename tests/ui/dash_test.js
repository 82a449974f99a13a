import { columnsOf } from "../../lego_serve/gateway/ui/static/dash/layers.js";
import { merge } from "../../lego_serve/gateway/ui/static/dash/merge.js";
import { ticksOf } from "../../lego_serve/gateway/ui/static/dash/scale.js";
import { equal } from "./equal.js";

const VIEW = {
  at: 10,
  overview: { counts: { ok: 1 }, target: { goal: 0.95 } },
  replicas: { a: { id: "a" }, b: { id: "b" } },
  requests: { x: { step: 1 } },
  decisions: {},
  series: { step_s: 2, from: 100, series: { p50: [1, 2, 3], ok: [0, 1, 2] } },
};

Deno.test("a patch changes what it names and keeps all else", () => {
  const next = merge(VIEW, { at: 11, overview: { counts: { ok: 2 } }, replicas: { a: null, c: { id: "c" } } });
  equal(next.overview, { counts: { ok: 2 }, target: { goal: 0.95 } });
  equal(Object.keys(next.replicas), ["b", "c"]);
  if (next.replicas.b !== VIEW.replicas.b || next.requests !== VIEW.requests) throw new Error("made anew");
  equal(Object.keys(VIEW.replicas), ["a", "b"]);
});

Deno.test("a card keeps the fields that a patch does not name", () => {
  const before = merge(VIEW, {
    requests: { y: { step: 1, steps: 9, state: "running" } },
    models: { m: { waiting: 1 } },
  });
  const next = merge(before, { requests: { y: { step: 2 } }, models: { m: { running: 3 } } });
  equal(next.requests.y, { step: 2, steps: 9, state: "running" });
  equal(next.models.m, { waiting: 1, running: 3 });
  equal(before.requests.y.step, 1);
});

Deno.test("points come at the end of series, and as many go", () => {
  const next = merge(VIEW, { series: { step_s: 2, from: 106, series: { p50: [4], ok: [3] } } });
  equal(next.series, { step_s: 2, from: 102, series: { p50: [2, 3, 4], ok: [1, 2, 3] } });
});

Deno.test("points that are known already are not added again", () => {
  const next = merge(VIEW, { series: { step_s: 2, from: 104, series: { p50: [3, 4], ok: [2, 3] } } });
  equal(next.series.series.p50, [2, 3, 4]);
});

Deno.test("time without words is a gap", () => {
  const next = merge(VIEW, { series: { step_s: 2, from: 110, series: { p50: [6], ok: [5] } } });
  equal(next.series.series.p50, [null, null, 6]);
});

Deno.test("points of another length are not mixed in", () => {
  equal(merge(VIEW, { series: { step_s: 10, from: 110, series: { p50: [6] } } }).series, VIEW.series);
});

Deno.test("an hour of patches leaves what is known as large as it was", () => {
  /** @type {any} */
  let view = VIEW;
  for (let second = 0; second < 3600; second += 1) {
    view = merge(view, {
      at: 10 + second,
      requests: { [`r${second}`]: { step: second }, [`r${second - 100}`]: null },
      decisions: { [`1.${second}`]: { at: second }, [`1.${second - 50}`]: null },
      series: { step_s: 2, from: 100 + 2 * second, series: { p50: [second], ok: [1] } },
    });
  }
  equal([Object.keys(view.requests).length, Object.keys(view.decisions).length], [101, 50]);
  equal([view.series.series.p50.length, view.series.series.ok.length], [3, 3]);
});

Deno.test("axes have about five round numbers from zero", () => {
  for (let length = 0.003; length < 5000; length *= 1.37) {
    const ticks = ticksOf(length);
    if (ticks[0] !== 0 || ticks.length < 3 || ticks.length > 6 || ticks[ticks.length - 1] > length) {
      throw new Error(`${length}: ${ticks}`);
    }
  }
});

Deno.test("a node stands to the right of all that it waits for", () => {
  const edges = [["a", "c"], ["b", "c"], ["a", "d"], ["c", "d"]].map(([from, to]) => ({ from, to }));
  equal(columnsOf(["d", "c", "b", "a"], edges), [["b", "a"], ["c"], ["d"]]);
});
