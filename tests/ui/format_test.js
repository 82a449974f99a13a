import { age, bytes, counted, duration, percent, short } from "../../lego_serve/gateway/ui/static/app/format.js";
import { equal } from "./equal.js";

Deno.test("seconds have at most three figures", () => {
  const said = [0, 0.0004, 0.04, 0.0996, 0.58, 4.613, 9.996, 61.24, 99.96, 3600, 1e6, -2, NaN, null].map(duration);
  equal(said, [
    "0 ms",
    "0 ms",
    "40 ms",
    "0.10 s",
    "0.58 s",
    "4.61 s",
    "10.0 s",
    "61.2 s",
    "2 min",
    "60 min",
    "12 d",
    "-2.00 s",
    "–",
    "–",
  ]);
});

Deno.test("ages are coarse and never negative", () => {
  equal([-3, 0.4, 41.2, 100, 7200, 200_000].map(age), ["0 s", "0 s", "41 s", "2 min", "2 h", "2 d"]);
});

Deno.test("bytes are decimal", () => {
  equal([0, 999, 999.6, 1400, 21_000_000, 4.06e9, undefined].map(bytes), [
    "0 B",
    "999 B",
    "1.0 kB",
    "1.4 kB",
    "21.0 MB",
    "4.1 GB",
    "–",
  ]);
});

Deno.test("shares, counts and identifiers", () => {
  equal([percent(0.978), percent(1, 0), percent(null)], ["97.8 %", "100 %", "–"]);
  equal([counted(1, "image"), counted(0, "image"), counted(2, "story", "stories")], [
    "1 image",
    "0 images",
    "2 stories",
  ]);
  equal([short("job_9f3c2ab1d4e5f6a7"), short("job_mine")], ["9f3c2ab1", "mine"]);
});
