// A mask as one byte a pixel, painted without soft edges: what is seen is what is sent.  Knows no canvas.

/**
 * @typedef {{kind: "stroke", erase: boolean, radius: number, points: [number, number][]}
 *   | {kind: "rect", erase: boolean, from: [number, number], to: [number, number]}
 *   | {kind: "invert"} | {kind: "clear"} | {kind: "load", bits: Uint8Array}} Act
 */

const MOST_ACTS = 400;

export class Mask {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.bits = new Uint8Array(width * height);
    /** @type {Uint8Array} what lies under the acts that can be undone */
    this.base = new Uint8Array(width * height);
    /** @type {Act[]} */
    this.acts = [];
    /** @type {Act[]} */
    this.undone = [];
    /** @type {[number, number, number, number]} what has changed since it was drawn: left, top, right, bottom */
    this.changed = [0, 0, width, height];
  }

  /** Returns what has changed since it was asked last. */
  takeChanged() {
    const changed = this.changed;
    this.changed = [this.width, this.height, 0, 0];
    return changed;
  }

  /**
   * @param {number} left
   * @param {number} top
   * @param {number} right
   * @param {number} bottom
   */
  #touch(left, top, right, bottom) {
    const [l, t, r, b] = this.changed;
    this.changed = [Math.min(l, left), Math.min(t, top), Math.max(r, right), Math.max(b, bottom)];
  }

  #touchAll() {
    this.changed = [0, 0, this.width, this.height];
  }

  /** @param {Act} act */
  do(act) {
    this.acts.push(act);
    this.undone = [];
    this.apply(act);
    if (this.acts.length > MOST_ACTS) {
      const oldest = /** @type {Act} */ (this.acts.shift());
      this.base = this.#after(this.base, [oldest]);
    }
  }

  /**
   * Goes on with the stroke that was begun last.
   * @param {[number, number]} point
   */
  extend(point) {
    const act = this.acts.at(-1);
    if (act?.kind !== "stroke") return;
    const from = /** @type {[number, number]} */ (act.points.at(-1));
    act.points.push(point);
    this.#segment(from, point, act.radius, act.erase ? 0 : 1);
  }

  undo() {
    const act = this.acts.pop();
    if (!act) return false;
    this.undone.push(act);
    this.bits = this.#after(this.base, this.acts);
    this.#touchAll();
    return true;
  }

  redo() {
    const act = this.undone.pop();
    if (!act) return false;
    this.acts.push(act);
    this.apply(act);
    return true;
  }

  get count() {
    let count = 0;
    for (const bit of this.bits) count += bit;
    return count;
  }

  /**
   * The pixels of a mask's image: what is marked is transparent, as the API wants it.
   * @returns {Uint8ClampedArray<ArrayBuffer>}
   */
  pixels() {
    const pixels = new Uint8ClampedArray(4 * this.bits.length);
    for (let i = 0; i < this.bits.length; i++) pixels[4 * i + 3] = this.bits[i] ? 0 : 255;
    return pixels;
  }

  /** @param {Act} act */
  apply(act) {
    if (act.kind !== "stroke" && act.kind !== "rect") this.#touchAll();
    switch (act.kind) {
      case "stroke":
        this.#segment(act.points[0], act.points[0], act.radius, act.erase ? 0 : 1);
        for (let i = 1; i < act.points.length; i++) {
          this.#segment(act.points[i - 1], act.points[i], act.radius, act.erase ? 0 : 1);
        }
        break;
      case "rect":
        this.#rect(act.from, act.to, act.erase ? 0 : 1);
        break;
      case "invert":
        for (let i = 0; i < this.bits.length; i++) this.bits[i] ^= 1;
        break;
      case "clear":
        this.bits.fill(0);
        break;
      case "load":
        this.bits.set(act.bits);
    }
  }

  /**
   * @param {Uint8Array} base
   * @param {Act[]} acts
   */
  #after(base, acts) {
    const now = this.bits;
    this.bits = base.slice();
    for (const act of acts) this.apply(act);
    const after = this.bits;
    this.bits = now;
    return after;
  }

  /**
   * Marks every pixel whose middle is within `radius` of a line.
   * @param {[number, number]} from
   * @param {[number, number]} to
   * @param {number} radius
   * @param {number} bit
   */
  #segment([x0, y0], [x1, y1], radius, bit) {
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(x0, x1) + radius));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(y0, y1) + radius));
    this.#touch(left, top, right + 1, bottom + 1);
    const [dx, dy] = [x1 - x0, y1 - y0];
    const length2 = dx * dx + dy * dy;
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const along = length2 === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
        const [ex, ey] = [px - along * dx, py - along * dy];
        if (ex * ex + ey * ey <= radius * radius) this.bits[y * this.width + x] = bit;
      }
    }
  }

  /**
   * @param {[number, number]} from
   * @param {[number, number]} to
   * @param {number} bit
   */
  #rect([x0, y0], [x1, y1], bit) {
    const left = Math.max(0, Math.round(Math.min(x0, x1)));
    const right = Math.min(this.width, Math.round(Math.max(x0, x1)));
    const top = Math.max(0, Math.round(Math.min(y0, y1)));
    const bottom = Math.min(this.height, Math.round(Math.max(y0, y1)));
    this.#touch(left, top, right, bottom);
    for (let y = top; y < bottom; y++) this.bits.fill(bit, y * this.width + left, y * this.width + right);
  }
}
