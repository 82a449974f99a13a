// The form's fields: each with its label, its bounds, and the refusal that is about it.
import { classes, html, useEffect, useState } from "../app/lib.js";
import { change, form, refusals } from "./state.js";

/**
 * The refusal of a field, under any of the names it may come by.
 * @param {string} name
 */
export function refusalOf(name) {
  return refusals.value[name];
}

/** @param {{name: string}} props */
export function Refusal({ name }) {
  const said = refusalOf(name);
  return said ? html`<p class="refusal" role="alert" id=${`refusal-${name}`}>${said}</p>` : null;
}

/** The refusals that are about no field that the page has now. */
export function OtherRefusals() {
  const [names, setNames] = useState(/** @type {string[]} */ ([]));
  const all = form.value && Object.keys(refusals.value);
  useEffect(() => { // once all fields are drawn
    const left = all.filter((name) => name && !document.getElementById(`refusal-${name}`));
    if (left.join() !== names.join()) setNames(left);
  });
  return names.filter((name) => refusalOf(name)).map((name) =>
    html`<p class="refusal" role="alert" key=${name}>${refusalOf(name)}</p>`
  );
}

/**
 * What ties a control to its refusal, for those who hear the page.
 * @param {string} name
 */
export function tied(name) {
  return refusalOf(name) ? { "aria-invalid": "true", "aria-describedby": `refusal-${name}` } : {};
}

/** @param {{label: string, hint?: any, name: string, children?: any, class?: string}} props */
export function Field({ label, hint, name, children, class: more }) {
  return html`<div class=${classes("field", more, refusalOf(name) && "is-refused")}>
    <div class="label-row">
      <label class="label" for=${`field-${name}`}>${label}</label>
      ${hint && html`<span class="hint">${hint}</span>`}
    </div>
    ${children}
    <${Refusal} name=${name} />
  </div>`;
}

/**
 * A slider with its figure, which may be typed as well.
 * @param {{
 *   label: string, name: string, value: number, min: number, max: number, step: number, digits?: number,
 *   unit?: string, onChange: (value: number) => void, hardMin?: number, hardMax?: number,
 * }} props
 */
export function Slider({ label, name, value, min, max, step, digits = 0, unit = "", onChange, hardMin, hardMax }) {
  const [typed, setTyped] = useState(/** @type {string | null} */ (null));
  /** @param {any} event */
  const type = (event) => {
    setTyped(event.target.value);
    const number = Number(event.target.value);
    if (event.target.value !== "" && Number.isFinite(number)) onChange(number);
  };
  const shown = typed ?? value.toFixed(digits);
  return html`
    <div class=${classes("slider-row", refusalOf(name) && "is-refused")}>
      <label for=${`field-${name}`}>${label}</label>
      <input
        id=${`field-${name}`}
        type="range"
        min=${min}
        max=${max}
        step=${step}
        value=${value}
        onInput=${(/** @type {any} */ event) => onChange(Number(event.target.value))}
        ...${tied(name)}
      />
      <span class="figure">
          <input
            type="number"
            aria-label=${`${label}, as a number`}
            min=${hardMin ?? min}
            max=${hardMax ?? max}
            step=${digits ? "any" : 1}
            value=${shown}
            onInput=${type}
            onBlur=${() => setTyped(null)}
          />${unit && html`<span class="unit">${unit}</span>`}
        </span>
      <${Refusal} name=${name} />
    </div>
  `;
}

/**
 * A slider of one of the workflow's inputs.
 * @param {{label: string, name: string, field: string, input: any, value: number | null, step: number, digits?: number, most?: number}} props
 */
export function InputSlider({ label, name, field, input, value, step, digits = 0, most }) {
  if (!input) return null;
  const [min, max] = [input.min ?? 0, input.max ?? 100];
  return html`
    <${Slider}
      label=${label}
      name=${name}
      value=${value ?? input.default ?? min}
      min=${min}
      max=${Math.min(max, most ?? max)}
      hardMax=${max}
      step=${step}
      digits=${digits}
      onChange=${(/** @type {number} */ number) => change({ [field]: number })}
    />
  `;
}

/**
 * Sizes to choose from within a workflow's bounds, the default first.
 * @param {Record<string, any>} inputs
 * @returns {string[]}
 */
export function sizesOf(inputs) {
  const { width, height } = inputs;
  if (!width || !height) return [];
  const [low, high] = [Math.max(width.min ?? 16, 16), Math.min(width.max ?? 2048, 4096)];
  const base = width.default ?? 1024;
  const usual = `${width.default ?? base}x${height.default ?? base}`;
  const found = [usual];
  const shapes = [[1, 1], [4, 3], [3, 4], [3, 2], [2, 3], [16, 9], [9, 16], [1.5, 1.5], [2, 2], [0.75, 0.75]];
  for (const [across, down] of shapes) {
    const even = across === down ? across : Math.sqrt(1 / (across * down));
    const sides = across === down ? [base * even, base * even] : [base * across * even, base * down * even];
    const [w, h] = sides.map((side) => Math.round(side / 16) * 16);
    const size = `${w}x${h}`;
    if (w >= low && h >= low && w <= high && h <= high && !found.includes(size)) found.push(size);
  }
  return found;
}
