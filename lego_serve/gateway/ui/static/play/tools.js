// The tools of a mask: what paints, how large, and what was done last.
import { Icon } from "../app/icons.js";
import { html, signal } from "../app/lib.js";

/** @typedef {"brush" | "eraser" | "rect"} Tool */

export const tool = signal(/** @type {Tool} */ ("brush"));
/** The brush's diameter as a share of the image's longer side. */
export const brushSize = signal(0.12);

const [SMALLEST, LARGEST] = [0.005, 0.6];

/** @param {number} factor */
function resizeBrush(factor) {
  brushSize.value = Math.min(LARGEST, Math.max(SMALLEST, brushSize.value * factor));
}

/** @type {[Tool, string, string][]} */
const TOOLS = [["brush", "Brush", "b"], ["eraser", "Eraser", "e"], ["rect", "Rectangle", "r"]];

/** `tick` rises with every change, so that the tools follow.
 * @param {{mask: import("./maskbits.js").Mask, tick: number, onChange: () => void}} props
 */
export function MaskTools({ mask, onChange }) {
  const acts = /** @type {[string, string, string, boolean, () => void][]} */ ([
    ["undo", "Undo", "Ctrl Z", mask.acts.length > 0, () => mask.undo()],
    ["redo", "Redo", "Ctrl Y", mask.undone.length > 0, () => mask.redo()],
    ["half", "Invert", "i", true, () => mask.do({ kind: "invert" })],
    ["clear", "Clear", "", mask.count > 0, () => mask.do({ kind: "clear" })],
  ]);
  return html`
    ${TOOLS.map(([name, label, letter]) =>
      html`
        <button type="button" key=${name} class="icon-button" aria-pressed=${tool.value === name} aria-label=${label}
          title=${`${label} (${letter})`} onClick=${() => (tool.value = name)}>
          <${Icon} name=${name} />
        </button>
      `
    )}
    <span class="tools-split"></span>
    <label class="brush-size">
      <span>Size</span>
      <input
        type="range"
        min="0"
        max="1"
        step="0.01"
        title="[ and ]"
        value=${Math.log(brushSize.value / 0.005) / Math.log(120)}
        onInput=${(/** @type {any} */ event) => (brushSize.value = 0.005 * 120 ** Number(event.target.value))}
      />
    </label>
    <span class="tools-split"></span>
    ${acts.map(([icon, label, keys, isOn, act]) =>
      html`
        <button type="button" key=${icon} class="icon-button" aria-disabled=${!isOn} aria-label=${label}
          title=${keys ? `${label} (${keys})` : label}
          onClick=${() => isOn && (act(), onChange())}>
          <${Icon} name=${icon} />
        </button>
      `
    )}
  `;
}

/**
 * Carries out a key of the painter's; returns whether it was one.
 * @param {KeyboardEvent} event
 * @param {import("./maskbits.js").Mask} mask
 */
export function paintKey(event, mask) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "y" || (key === "z" && event.shiftKey)) return mask.redo(), true;
    return key === "z" ? (mask.undo(), true) : false;
  }
  if (event.altKey) return false;
  const chosen = TOOLS.find(([, , letter]) => letter === key);
  if (chosen) tool.value = chosen[0];
  else if (key === "[") resizeBrush(1 / 1.2);
  else if (key === "]") resizeBrush(1.2);
  else if (key === "i") mask.do({ kind: "invert" });
  else return false;
  return true;
}
