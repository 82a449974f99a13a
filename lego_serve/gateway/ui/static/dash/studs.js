// The studs of a brick: filled for images in the step that runs, hatched for those that wait, hollow for free room.

export const MOST_STUDS = 12; // what fits the narrowest brick

/**
 * The studs from left to right, and how many images each of them is: one, or more where the room is too large to draw.
 * A stud of several is filled as soon as one of them is there. What waits beyond the last stud is told in words alone.
 * A replica that drains takes nothing new, so none of its studs is hollow; they stand for as many images as before.
 * @param {{running: number, waiting: number, room: number}} load
 * @param {string} [state] of the replica
 * @returns {{studs: string[], each: number}}
 */
export function studsOf({ running, waiting, room }, state = "up") {
  const most = Math.max(room, running);
  const each = Math.max(1, Math.ceil(most / MOST_STUDS));
  const on = Math.ceil(running / each);
  const waits = Math.ceil(waiting / each);
  const free = state === "up" ? Math.ceil(most / each) : 0;
  const count = Math.min(MOST_STUDS, Math.max(free, on + waits));
  const studs = Array.from({ length: count }, (_, at) => at < on ? "is-on" : at < on + waits ? "is-waiting" : "");
  return { studs, each };
}

/**
 * What is said after how many images run: of how many at most; nothing where that is not known, or none are taken.
 * @param {number} room
 * @param {string} [state] of the replica
 */
export function ofRoom(room, state = "up") {
  return room > 0 && state === "up" ? ` of at most ${room}` : "";
}
