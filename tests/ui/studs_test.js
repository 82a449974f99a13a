import { MOST_STUDS, ofRoom, studsOf } from "../../lego_serve/gateway/ui/static/dash/studs.js";
import { equal } from "./equal.js";

/** @param {number} running @param {number} waiting @param {number} room @param {string} [state] */
function drawn(running, waiting, room, state) {
  const { studs, each } = studsOf({ running, waiting, room }, state);
  const letters = studs.map((state) => ({ "is-on": "o", "is-waiting": "w", "": "-" }[state]));
  return `${letters.join("")} ${each}`;
}

Deno.test("a brick has a stud for each image that a step takes", () => {
  equal(drawn(0, 0, 5), "----- 1");
  equal(drawn(2, 0, 5), "oo--- 1");
  equal(drawn(2, 1, 5), "oow-- 1");
  equal(drawn(5, 0, 5), "ooooo 1");
  equal(drawn(1, 0, 1), "o 1");
});

Deno.test("what waits above the room is drawn after it, as far as the brick goes", () => {
  equal(drawn(5, 2, 5), "oooooww 1");
  equal(drawn(5, 200, 5), "ooooowwwwwww 1");
});

Deno.test("without a known room there is a stud for each image in hand and none for more", () => {
  equal(drawn(0, 0, 0), " 1");
  equal(drawn(2, 1, 0), "oow 1");
  equal(ofRoom(0), "");
  equal(ofRoom(7), " of at most 7");
});

Deno.test("a stud of a large room is several images, so that what is filled keeps its share", () => {
  equal(drawn(0, 0, 24), "------------ 2");
  equal(drawn(12, 0, 24), "oooooo------ 2");
  equal(drawn(1, 0, 24), "o----------- 2");
  equal(drawn(13, 0, 24), "ooooooo----- 2");
  equal(drawn(40, 8, 64), "ooooooo ".trim() + "ww-- 6");
});

Deno.test("a replica that drains shows what it still holds and no room, at the scale that it had", () => {
  equal(drawn(0, 0, 5, "draining"), " 1");
  equal(drawn(2, 1, 5, "draining"), "oow 1");
  equal(drawn(12, 0, 24, "draining"), "oooooo 2");
  equal(drawn(13, 40, 24, "draining"), "ooooooowwwww 2");
  equal(ofRoom(7, "draining"), "");
});

Deno.test("whatever is in hand, studs fit the brick, and none is left out or made up", () => {
  for (let room = 0; room < 400; room += room < 30 ? 1 : 37) {
    for (let running = 0; running <= 60; running += 3) {
      for (let waiting = 0; waiting <= 60; waiting += 7) {
        const { studs, each } = studsOf({ running, waiting, room });
        const count = (/** @type {string} */ state) => studs.filter((stud) => stud === state).length;
        const on = count("is-on");
        const isRight = studs.length <= MOST_STUDS && on * each >= running && (on - 1) * each < running &&
          (count("is-waiting") * each >= waiting || studs.length === MOST_STUDS) &&
          studs.length * each >= Math.max(room, running);
        if (!isRight) throw new Error(`${running} run, ${waiting} wait, room for ${room}: ${studs} of ${each}`);
      }
    }
  }
});
