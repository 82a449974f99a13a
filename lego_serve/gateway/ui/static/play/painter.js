// Paints a mask over an image: by mouse, pen, touch and keys.
import { isDark } from "../app/kit.js";
import { classes, html, useEffect, useLayoutEffect, useRef, useState } from "../app/lib.js";
import { brushSize, tool } from "./tools.js";

const STEP = 1 / 64; // of the longer side: how far an arrow key moves the brush

/**
 * @param {{
 *   mask: import("./maskbits.js").Mask, tick: number, onChange: () => void, url: string, look: "hatch" | "ink",
 *   label: string,
 * }} props
 */
export function Painter({ mask, tick, onChange, url, look, label }) {
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const layer = useRef(/** @type {OffscreenCanvas | null} */ (null));
  const [size, setSize] = useState([0, 0]);
  const [at, setAt] = useState(/** @type {[number, number] | null} */ (null));
  const [corner, setCorner] = useState(/** @type {[number, number] | null} */ (null));
  const pressed = useRef(false);
  const radius = (brushSize.value * Math.max(mask.width, mask.height)) / 2;
  const scale = size[0] / mask.width || 1;

  useLayoutEffect(() => {
    const element = /** @type {HTMLCanvasElement} */ (canvas.current);
    const observer = new ResizeObserver(() => setSize([element.clientWidth, element.clientHeight]));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    layer.current = new OffscreenCanvas(mask.width, mask.height);
    mask.changed = [0, 0, mask.width, mask.height];
  }, [mask]);
  useEffect(() => {
    const element = canvas.current;
    if (element && layer.current && size[0] > 0) draw(element, layer.current, mask, look, corner && at && [corner, at]);
  }, [mask, tick, size, look, isDark.value, corner, corner && at]);

  /**
   * @param {{clientX: number, clientY: number}} event
   * @returns {[number, number]}
   */
  const place = (event) => {
    const box = /** @type {HTMLCanvasElement} */ (canvas.current).getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [x * mask.width, y * mask.height];
  };
  /** @param {PointerEvent} event */
  const down = (event) => {
    if (event.button !== 0) return;
    pressed.current = true;
    canvas.current?.setPointerCapture(event.pointerId);
    const point = place(event);
    setAt(point);
    if (tool.value === "rect") return setCorner(point);
    mask.do({ kind: "stroke", erase: tool.value === "eraser" || event.shiftKey, radius, points: [point] });
    onChange();
  };
  /** @param {PointerEvent} event */
  const move = (event) => {
    setAt(place(event));
    if (!pressed.current || tool.value === "rect") return;
    const parts = event.getCoalescedEvents();
    for (const part of parts.length > 0 ? parts : [event]) mask.extend(place(part));
    onChange();
  };
  /** @param {PointerEvent} event */
  const up = (event) => {
    if (pressed.current && corner) endRect(place(event), event.shiftKey);
    pressed.current = false;
  };
  /**
   * @param {[number, number]} to
   * @param {boolean} erase
   */
  const endRect = (to, erase) => {
    mask.do({ kind: "rect", erase, from: /** @type {[number, number]} */ (corner), to });
    setCorner(null);
    onChange();
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    const step = STEP * Math.max(mask.width, mask.height) * (event.shiftKey ? 10 : 1);
    const from = at ?? [mask.width / 2, mask.height / 2];
    const moves = /** @type {Record<string, [number, number]>} */ ({
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    });
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      setAt([clamp(from[0] + dx, mask.width), clamp(from[1] + dy, mask.height)]);
    } else if (event.key === " ") {
      setAt(from);
      const erase = event.shiftKey || tool.value === "eraser";
      if (tool.value !== "rect") mask.do({ kind: "stroke", erase, radius, points: [from] });
      else if (corner) return event.preventDefault(), endRect(from, erase);
      else setCorner(from);
      onChange();
    } else return;
    event.preventDefault();
  };
  const ring = tool.value === "rect" ? 12 : Math.max(4, 2 * radius * scale);
  const ringStyle = at &&
    { left: `${at[0] * scale}px`, top: `${at[1] * scale}px`, width: `${ring}px`, height: `${ring}px` };
  return html`<div class=${classes("painter", look === "ink" && "is-ink")}>
    ${url && html`<img src=${url} alt="" draggable=${false} />`}
    <canvas
      ref=${canvas}
      tabindex="0"
      role="application"
      aria-label=${`${label}. Arrow keys move the brush, Space paints, Shift and Space erases.`}
      onPointerDown=${down}
      onPointerMove=${move}
      onPointerUp=${up}
      onPointerCancel=${up}
      onPointerLeave=${() => !pressed.current && setAt(null)}
      onKeyDown=${press}
    ></canvas>
    ${
    ringStyle &&
    html`<span class=${classes("brush-ring", tool.value === "rect" && "is-cross")} style=${ringStyle}></span>`
  }
  </div>`;
}

/**
 * @param {number} value
 * @param {number} most
 */
function clamp(value, most) {
  return Math.min(most, Math.max(0, value));
}

/**
 * Draws a mask at the size it is shown at: hatched over an image, or as white ink.
 * @param {HTMLCanvasElement} canvas
 * @param {OffscreenCanvas} layer
 * @param {import("./maskbits.js").Mask} mask
 * @param {"hatch" | "ink"} look
 * @param {[[number, number], [number, number]] | null} frame
 */
function draw(canvas, layer, mask, look, frame) {
  renew(layer, mask);
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = width < mask.width;
  context.drawImage(layer, 0, 0, width, height);
  if (look === "hatch") {
    context.globalCompositeOperation = "source-in";
    context.fillStyle = hatch(context, ratio);
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }
  if (frame) {
    const [[x0, y0], [x1, y1]] = frame.map(([x, y]) => [(x * width) / mask.width, (y * height) / mask.height]);
    context.lineWidth = 2 * ratio;
    context.strokeStyle = "#14181f";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([6 * ratio, 6 * ratio]);
    context.strokeStyle = "#ffffff";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }
}

/**
 * Brings the layer of the mask's own size up to date, where it has changed.
 * @param {OffscreenCanvas} layer
 * @param {import("./maskbits.js").Mask} mask
 */
function renew(layer, mask) {
  const [left, top, right, bottom] = mask.takeChanged();
  const [width, height] = [right - left, bottom - top];
  if (width <= 0 || height <= 0) return;
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (mask.bits[(y + top) * mask.width + x + left]) {
        pixels.data.fill(255, 4 * (y * width + x), 4 * (y * width + x) + 4);
      }
    }
  }
  /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext("2d")).putImageData(pixels, left, top);
}

/**
 * Light with dark stripes: seen on any image, whatever its colours.
 * @param {CanvasRenderingContext2D} context
 * @param {number} ratio
 */
function hatch(context, ratio) {
  const side = Math.round(14 * ratio);
  const tile = new OffscreenCanvas(side, side);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (tile.getContext("2d"));
  pen.fillStyle = "rgb(255 255 255 / 0.5)";
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = "rgb(20 24 31 / 0.62)";
  pen.lineWidth = 2.5 * ratio;
  for (const shift of [-side, 0, side]) {
    pen.beginPath();
    pen.moveTo(shift - 2, side + 2);
    pen.lineTo(shift + side + 2, -2);
    pen.stroke();
  }
  return /** @type {CanvasPattern} */ (context.createPattern(tile, "repeat"));
}
