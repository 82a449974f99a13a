// What is added to a model: adapters, found by search, and ControlNets with a map that is drawn or opened.
import { Icon } from "../app/icons.js";
import { Dialog, toast } from "../app/kit.js";
import { classes, html, useRef, useState } from "../app/lib.js";
import { FileButton } from "./source.js";
import { Refusal, refusalOf, Slider } from "./fields.js";
import { images } from "./history.js";
import { Mask } from "./maskbits.js";
import { Painter } from "./painter.js";
import { card, change, dimensionsOf, form, wanted } from "./state.js";
import { MaskTools, paintKey } from "./tools.js";

const MOST = 4;

/**
 * Whether the last answer that used an adapter had it in memory.
 * @param {string} name
 */
function atHand(name) {
  for (const { facts } of images.value.slice(0, 20)) {
    const used = (facts.adapters ?? []).find((/** @type {any} */ each) => each.name === name);
    if (used) return true; // whoever has just loaded it has it now
  }
  return false;
}

export function Adapters() {
  const names = card.value?.lego.adapters;
  const used = form.value.lora;
  if (!names || (names.length === 0 && used.length === 0)) return null;
  /**
   * @param {number} index
   * @param {Record<string, number>} changes
   */
  const alter = (index, changes) =>
    change({ lora: used.map((each, at) => (at === index ? { ...each, ...changes } : each)) });
  return html`<fieldset class="group">
    <legend>Adapters</legend>
    <span class="hint at-legend">up to ${MOST}</span>
    ${
    used.map((use, index) =>
      html`
        <${Use}
          key=${use.name}
          use=${use}
          field=${`lora[${index}]`}
          amount="scale"
          least=${-2}
          most=${2}
          badge=${atHand(use.name) && "at hand"}
          onChange=${(/** @type {any} */ changes) => alter(index, changes)}
          onRemove=${() => change({ lora: used.filter((_, at) => at !== index) })}
        />
      `
    )
  }
    <${Refusal} name="lora" />
    <${Finder}
      label="Add an adapter"
      names=${names.filter((name) => !used.some((each) => each.name === name))}
      isFull=${used.length >= MOST}
      onPick=${(/** @type {string} */ name) => change({ lora: [...used, { name, scale: 1, start: 0, end: 1 }] })}
    />
  </fieldset>`;
}

export function ControlNets() {
  const names = card.value?.lego.controlnets ?? [];
  const used = form.value.controlnet;
  const [drawn, setDrawn] = useState(/** @type {number | null} */ (null));
  if (names.length === 0 && used.length === 0) return null;
  /**
   * @param {number} index
   * @param {Record<string, any>} changes
   */
  const alter = (index, changes) =>
    change({ controlnet: used.map((each, at) => (at === index ? { ...each, ...changes } : each)) });
  /** @param {string} name */
  const add = (name) => {
    change({ controlnet: [...used, { name, image: "", weight: 1, start: 0, end: 1 }] });
    setDrawn(used.length);
  };
  /**
   * @param {number} index
   * @param {File} file
   */
  const open = async (index, file) => alter(index, { image: await base64Of(file) });
  return html`<fieldset class="group">
    <legend>ControlNet</legend>
    ${
    used.map((use, index) =>
      html`
        <${Use}
          key=${use.name}
          use=${use}
          field=${`controlnet[${index}]`}
          amount="weight"
          least=${0}
          most=${2}
          onChange=${(/** @type {any} */ changes) => alter(index, changes)}
          onRemove=${() => change({ controlnet: used.filter((_, at) => at !== index) })}
        >
          <div class="map-row">
                  ${use.image
                    ? html`<img class="map-thumb" src=${`data:image/png;base64,${use.image}`} alt="The map: white where lines are" />`
                    : html`<span class="map-thumb is-empty">no map</span>`}
                  <button type="button" class="button is-small" onClick=${() =>
                    setDrawn(index)}><${Icon} name="brush" /> Draw</button>
                  <${FileButton} label="Open" onFile=${(/** @type {File} */ file) => open(index, file)} />
                </div>
          <${Refusal} name=${`controlnet[${index}].image`} />
          <//>
      `
    )
  }
    <${Refusal} name="controlnet" />
    <${Finder}
      label="Add a ControlNet"
      names=${names.filter((name) => !used.some((each) => each.name === name))}
      isFull=${used.length >= MOST}
      onPick=${add}
    />
    ${
    drawn !== null &&
    html`<${MapDialog} onClose=${() => setDrawn(null)} onDone=${(
      /** @type {string} */ image,
    ) => (alter(drawn, { image }), setDrawn(null))} />`
  }
  </fieldset>`;
}

/**
 * One adapter or ControlNet that is used.
 * @param {{
 *   use: any, field: string, amount: "scale" | "weight", least: number, most: number, badge?: string | false,
 *   onChange: (changes: Record<string, number>) => void, onRemove: () => void, children?: any,
 * }} props
 */
function Use({ use, field, amount, least, most, badge, onChange, onRemove, children }) {
  const isRefused = ["name", amount, "start", "end"].some((part) => refusalOf(`${field}.${part}`));
  const isShort = ["start", "end"].some((part) => refusalOf(`${field}.${part}`));
  return html`<div class=${classes("use", isRefused && "is-refused")}>
    <div class="use-head">
      <strong>${use.name}</strong>
      ${badge && html`<span class="badge is-ok">${badge}</span>`}
      <button type="button" class="icon-button" aria-label=${`Remove ${use.name}`} onClick=${onRemove}><${Icon} name="close" /></button>
    </div>
    <${Refusal} name=${`${field}.name`} />
    ${children}
    <${Slider}
      label=${amount === "scale" ? "Scale" : "Weight"}
      name=${`${field}.${amount}`}
      value=${use[amount]}
      min=${least}
      max=${most}
      hardMin=${-10}
      hardMax=${10}
      step=${0.05}
      digits=${2}
      onChange=${(/** @type {number} */ value) => onChange({ [amount]: value })}
    />
    <details class="more" open=${isShort || undefined}>
      <summary>From ${Math.round(use.start * 100)} % to ${Math.round(use.end * 100)} % of the steps</summary>
      <${Slider} label="From" name=${`${field}.start`} value=${use.start} min=${0} max=${1} step=${0.05} digits=${2} onChange=${(
    /** @type {number} */ value,
  ) => onChange({ start: value })} />
      <${Slider} label="Until" name=${`${field}.end`} value=${use.end} min=${0} max=${1} step=${0.05} digits=${2} onChange=${(
    /** @type {number} */ value,
  ) => onChange({ end: value })} />
    </details>
  </div>`;
}

/**
 * Finds a name by its letters: a combobox.
 * @param {{label: string, names: string[], isFull: boolean, onPick: (name: string) => void}} props
 */
function Finder({ label, names, isFull, onPick }) {
  const [text, setText] = useState("");
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(0);
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const id = label.replaceAll(" ", "-").toLowerCase();
  if (isFull) return html`<p class="hint">No more than ${MOST} at once; remove one to add another.</p>`;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = names.filter((name) => words.every((word) => name.toLowerCase().includes(word))).slice(0, 50);
  /** @param {string} name */
  const pick = (name) => {
    onPick(name);
    setText("");
    setOpen(false);
    setActive(0);
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      setOpen(true);
      setActive(Math.max(0, Math.min(found.length - 1, active + (isOpen ? move : 0))));
    } else if (event.key === "Enter" && isOpen && found[active]) pick(found[active]);
    else if (event.key === "Escape" && isOpen) setOpen(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="finder" onFocusOut=${(/** @type {any} */ event) =>
    !event.currentTarget.contains(event.relatedTarget) && setOpen(false)}>
    <span class="finder-field">
      <${Icon} name="plus" />
      <input
        ref=${field}
        role="combobox"
        aria-label=${label}
        aria-expanded=${isOpen}
        aria-controls=${`list-${id}`}
        aria-activedescendant=${isOpen && found[active] ? `${id}-${active}` : undefined}
        aria-autocomplete="list"
        autocomplete="off"
        placeholder=${`${label}, ${names.length === 1 ? "1 there is" : `${names.length} there are`}`}
        value=${text}
        onFocus=${() => setOpen(true)}
        onInput=${(/** @type {any} */ event) => (setText(event.target.value), setOpen(true), setActive(0))}
        onKeyDown=${press}
      />
    </span>
    <ul id=${`list-${id}`} role="listbox" aria-label=${label} hidden=${!isOpen}>
      ${
    found.map((name, index) =>
      html`
        <li
          key=${name}
          id=${`${id}-${index}`}
          role="option"
          aria-selected=${index === active}
          onPointerDown=${(/** @type {Event} */ event) => (event.preventDefault(), pick(name))}
        >
                    <span>${name}</span>${atHand(name) && html`<span class="badge is-ok">at hand</span>`}
                  </li>
      `
    )
  }
    </ul>
    ${
    isOpen && found.length === 0 &&
    html`<p class="hint">${names.length === 0 ? "All there are have been added." : "None has these letters."}</p>`
  }
  </div>`;
}

/**
 * Draws a map: white lines on black.
 * @param {{onClose: () => void, onDone: (image: string) => void}} props
 */
function MapDialog({ onClose, onDone }) {
  const [width, height] = dimensionsOf(wanted.value);
  const drawing = useRef(/** @type {Mask | null} */ (null));
  drawing.current ??= new Mask(width, height);
  const [tick, setTick] = useState(0);
  const mask = drawing.current;
  const done = async () => {
    if (mask.count === 0) return toast("Nothing is drawn yet.", true);
    const canvas = new OffscreenCanvas(width, height);
    const pixels = new Uint8ClampedArray(4 * mask.bits.length);
    for (let i = 0; i < mask.bits.length; i++) pixels.fill(255, 4 * i + (mask.bits[i] ? 0 : 3), 4 * i + 4);
    canvas.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
    onDone(await base64Of(await canvas.convertToBlob({ type: "image/png" })));
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    if (!paintKey(event, mask)) return;
    event.preventDefault();
    setTick((each) => each + 1);
  };
  return html`
    <${Dialog} title="Draw the map" wide=${true} onClose=${onClose} onKey=${press}>
      <div class="tools" role="toolbar" aria-label="Drawing tools">
        <${MaskTools} mask=${mask} tick=${tick} onChange=${() => setTick(tick + 1)} />
      </div>
      <div class="map-board" style=${{ aspectRatio: `${width} / ${height}` }}>
        <${Painter} mask=${mask} tick=${tick} onChange=${() =>
          setTick((each) => each + 1)} url="" look="ink" label="Map" />
      </div>
      <footer>
        <button type="button" class="button" onClick=${onClose}>Cancel</button>
        <button type="button" class="button is-main" onClick=${done}>Use this map</button>
      </footer>
      <//>
  `;
}

/** @param {Blob} blob */
async function base64Of(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}
