import { Mask } from "../../lego_serve/gateway/ui/static/play/maskbits.js";
import { equal } from "./equal.js";

/** @param {number} seed */
function random(seed) {
  let state = seed;
  return () => (state = (state * 1664525 + 1013904223) >>> 0) / 2 ** 32;
}

/** @param {() => number} next @returns {any} */
function anyAct(next) {
  const kinds = ["stroke", "stroke", "rect", "invert", "clear"];
  const kind = kinds[Math.floor(next() * kinds.length)];
  const point = () => [next() * 40, next() * 30];
  const erase = next() < 0.4;
  if (kind === "stroke") return { kind, erase, radius: 0.5 + next() * 8, points: [point(), point(), point()] };
  return kind === "rect" ? { kind, erase, from: point(), to: point() } : { kind };
}

Deno.test("undo and redo lead back and forth over any acts", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const next = random(seed);
    const mask = new Mask(40, 30);
    const seen = [mask.bits.slice()];
    for (let i = 0; i < 12; i++) {
      mask.do(anyAct(next));
      seen.push(mask.bits.slice());
    }
    for (let i = 11; i >= 0; i--) {
      mask.undo();
      equal([...mask.bits], [...seen[i]]);
    }
    equal(mask.undo(), false);
    for (let i = 1; i <= 12; i++) {
      mask.redo();
      equal([...mask.bits], [...seen[i]]);
    }
    equal(mask.redo(), false);
  }
});

Deno.test("inverting twice changes nothing, and once leaves the rest", () => {
  const mask = new Mask(16, 16);
  mask.do({ kind: "stroke", erase: false, radius: 4, points: [[8, 8]] });
  const count = mask.count;
  mask.do({ kind: "invert" });
  equal(mask.count, 256 - count);
  mask.do({ kind: "invert" });
  equal(mask.count, count);
});

Deno.test("a stroke erased with the same brush leaves nothing", () => {
  const mask = new Mask(64, 64);
  const points = /** @type {[number, number][]} */ ([[10.3, 11.8], [40.1, 33.3]]);
  mask.do({ kind: "stroke", erase: false, radius: 3.7, points });
  mask.do({ kind: "stroke", erase: true, radius: 3.7, points: points.slice() });
  equal(mask.count, 0);
});

Deno.test("a stroke that is gone on with is one act", () => {
  const mask = new Mask(64, 64);
  mask.do({ kind: "stroke", erase: false, radius: 2, points: [[5, 5]] });
  mask.extend([30, 5]);
  mask.extend([30, 30]);
  equal(mask.acts.length, 1);
  mask.undo();
  equal(mask.count, 0);
});

Deno.test("a mask's image is transparent where it is marked, and half of nothing", () => {
  const mask = new Mask(20, 20);
  mask.do({ kind: "stroke", erase: false, radius: 3, points: [[10, 10]] });
  const alpha = [...mask.pixels()].filter((_, index) => index % 4 === 3);
  equal([...new Set(alpha)].sort(), [0, 255]);
  equal(alpha.filter((value) => value === 0).length, mask.count);
});

Deno.test("what has changed covers every change", () => {
  const mask = new Mask(40, 30);
  const next = random(5);
  mask.takeChanged();
  for (let i = 0; i < 50; i++) {
    const before = mask.bits.slice();
    mask.do(anyAct(next));
    const [left, top, right, bottom] = mask.takeChanged();
    mask.bits.forEach((bit, at) => {
      const [x, y] = [at % 40, Math.floor(at / 40)];
      if (bit !== before[at] && !(x >= left && x < right && y >= top && y < bottom)) throw new Error(`${x}, ${y}`);
    });
  }
});

Deno.test("the oldest acts can no longer be undone, and stay", () => {
  const mask = new Mask(8, 8);
  for (let i = 0; i < 450; i++) mask.do({ kind: "invert" });
  while (mask.undo());
  equal(mask.count, 0); // fifty of them stay: an even number
});
