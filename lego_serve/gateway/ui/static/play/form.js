// The left column: what is asked for.
import { Icon } from "../app/icons.js";
import { Choice } from "../app/kit.js";
import { counted, duration } from "../app/format.js";
import { html, useState } from "../app/lib.js";
import { Adapters, ControlNets } from "./addons.js";
import { Field, InputSlider, OtherRefusals, Refusal, sizesOf, Slider, tied } from "./fields.js";
import { images } from "./history.js";
import { cancel, start } from "./run.js";
import { SourceField } from "./source.js";
import { card, change, choices, form, inputs, isMasked, refusals, run, source, tiers } from "./state.js";
import { tierChoices } from "./tiers.js";

const SAMPLERS = ["euler", "dpmpp_2m", "lcm", "scm"];

export function Form() {
  const now = form.value;
  const isEdit = now.mode === "edit";
  return html`
    <form class="form" aria-label="Request" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <div class="form-fields">
          <${Choice}
            label="What to do"
            choices=${[["generate", "Generate"], ["edit", "Edit"]]}
            value=${now.mode}
            onChange=${(/** @type {any} */ mode) => change({ mode, size: "" })}
          />
          <${Prompt} />
          ${isEdit && html`<${SourceField} />`}
          ${isMasked.value && "caption" in inputs.value && html`<${Caption} />`}
          <${Model} />
          <div class="pair">
            <${Size} />
            <${Seed} />
          </div>
          <div class="sliders">
            <${InputSlider} label="Steps" name="num_inference_steps" field="steps" input=${inputs.value
              .steps} value=${now.steps} step=${1} most=${60} />
            <${InputSlider} label="Guidance" name="guidance_scale" field="guidance" input=${inputs.value
              .guidance} value=${now.guidance} step=${0.1} digits=${1} most=${20} />
            ${isEdit && html`
              <${InputSlider} label="Strength" name="strength" field="strength" input=${inputs.value
                .strength} value=${now.strength} step=${0.01}
                digits=${2} />
            `}
            <${InputSlider} label="Images" name="n" field="n" input=${inputs.value.n} value=${now.n} step=${1} />
          </div>
          ${tiers.value.length > 0 && html`<${Tier} />`}
          <${Adapters} />
          ${!isEdit && html`<${ControlNets} />`}
          ${isMasked.value && html`<${MaskFields} />`}
          ${card.value && html`<${More} />`}
        </div>
      <${Send} />
    </form>
  `;
}

function Prompt() {
  const { prompt } = form.value;
  return html`
    <${Field} label="Prompt" hint=${counted(prompt.length, "character")} name="prompt">
      <textarea
        id="field-prompt"
        rows="3"
        placeholder="a large red circle on the left, blue background"
        value=${prompt}
        onInput=${(/** @type {any} */ event) => change({ prompt: event.target.value })}
        ...${tied("prompt")}
      ></textarea>
      <//>
  `;
}

function Caption() {
  return html`
    <${Field} label="The image as it is" hint="quicker, closer edits" name="caption">
      <input
        id="field-caption"
        value=${form.value.caption}
        placeholder="what the whole image shows now"
        onInput=${(/** @type {any} */ event) => change({ caption: event.target.value })}
        ...${tied("caption")}
      />
      <//>
  `;
}

function Model() {
  const { width } = inputs.value;
  const hint = width?.min !== undefined && width?.max !== undefined ? `${width.min} to ${width.max} px` : "";
  return html`
    <${Field} label="Workflow" hint=${hint} name="model">
      <select
        id="field-model"
        value=${card.value?.id ?? ""}
        onChange=${(/** @type {any} */ event) =>
          change({
            model: event.target.value,
            size: "",
            steps: null,
            guidance: null,
            tier: "",
            lora: [],
            controlnet: [],
          })}
        ...${tied("model")}
      >
          ${choices.value.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
        </select>
      <//>
  `;
}

function Size() {
  const [isOwn, setOwn] = useState(false);
  const { size, mode, template } = form.value;
  const sizes = sizesOf(inputs.value);
  const isEdit = mode === "edit";
  const isTyped = isOwn || (size !== "" && !sizes.includes(size));
  /** @param {any} event */
  const choose = ({ target: { value } }) => {
    setOwn(value === "own");
    change({ size: value === "own" ? size || sizes[0] : value === sizes[0] && !isEdit ? "" : value });
  };
  return html`<${Field} label="Size" name="size">
    ${
    isTyped
      ? html`
        <span class="with-button">
          <input id="field-size" value=${size} onInput=${(/** @type {any} */ event) =>
            change({ size: event.target.value.replace(/\s*[×*]\s*/, "x") })} ...${tied("size")} />
          <button type="button" class="icon-button is-edged" aria-label="Choose from the list"
            onClick=${() => (setOwn(false), change({ size: "" }))}><${Icon} name="close" /></button>
        </span>
      `
      : html`<select id="field-size" disabled=${isEdit && template !== ""} value=${
        size || (isEdit ? "" : sizes[0])
      } onChange=${choose} ...${tied("size")}>
          ${isEdit && html`<option value="">as the image</option>`}
          ${sizes.map((each) => html`<option key=${each} value=${each}>${each.replace("x", " × ")}</option>`)}
          <option value="own">Other…</option>
        </select>`
  }
  <//>`;
}

function Seed() {
  const draw = () => change({ seed: String(Math.floor(Math.random() * 2 ** 32)) });
  return html`
    <${Field} label="Seed" name="seed">
      <span class="with-button">
        <input
          id="field-seed"
          inputmode="numeric"
          placeholder="random"
          value=${form.value.seed}
          onInput=${(/** @type {any} */ event) => change({ seed: event.target.value.replace(/[^0-9]/g, "") })}
          ...${tied("seed")}
        />
        <button type="button" class="icon-button is-edged" aria-label="Draw a seed" title="Draw a seed"
          onClick=${draw}><${Icon} name="dice" /></button>
      </span>
      <//>
  `;
}

function Tier() {
  const { tier, steps, sampler } = form.value;
  const { steps: known, sampler: usual } = inputs.value;
  const all = tierChoices(tiers.value, steps ?? known?.default ?? 0, sampler || usual?.default || "euler");
  return html`
    <${Field} label="Tier" hint="less work, nearly the same image" name="tier">
      <select id="field-tier" value=${tier} onChange=${(/** @type {any} */ event) =>
        change({ tier: event.target.value })} ...${tied("tier")}>
        <option value="">the model's</option>
        ${all.map(([name, said]) => html`<option key=${name} value=${name}>${said}</option>`)}
      </select>
      <//>
  `;
}

function MaskFields() {
  const { dilation, feather, reuse } = form.value;
  return html`
    <fieldset class="group">
      <legend>Mask</legend>
      <div class="sliders">
        <${Slider} label="Grow" name="mask_dilation" value=${dilation} min=${0} max=${64} step=${1}
          unit="px" onChange=${(/** @type {number} */ value) => change({ dilation: value })} />
        <${Slider} label="Feather" name="mask_feather" value=${feather} min=${0} max=${64} step=${1}
          unit="px" onChange=${(/** @type {number} */ value) => change({ feather: value })} />
      </div>
      <${Field} label="Reuse" hint="of what earlier edits left" name="reuse">
        <select id="field-reuse" value=${reuse} onChange=${(/** @type {any} */ event) =>
          change({ reuse: event.target.value })} ...${tied("reuse")}>
          <option value="exact">none: exact</option>
          <option value="high">high quality</option>
          <option value="balanced">balanced: quicker</option>
        </select>
        <//>
        </fieldset>
  `;
}

function More() {
  const { negative, sampler, format, deadline } = form.value;
  const names = ["negative_prompt", "sampler", "output_format", "deadline_ms"];
  const isOpen = names.some((name) => refusals.value[name]);
  return html`
    <details class="more" open=${isOpen || undefined}>
      <summary>More: negative prompt, sampler, format, deadline</summary>
      <${Field} label="Negative prompt" name="negative_prompt">
        <textarea id="field-negative_prompt" rows="2" value=${negative} onInput=${(/** @type {any} */ event) =>
          change({ negative: event.target.value })} ...${tied("negative_prompt")}></textarea>
        <//>
        <div class="pair">
          <${Field} label="Sampler" name="sampler">
            <select id="field-sampler" value=${sampler} onChange=${(/** @type {any} */ event) =>
              change({ sampler: event.target.value })} ...${tied("sampler")}>
              <option value="">the workflow's</option>
              ${SAMPLERS.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
            </select>
            <//>
            <${Field} label="Format" name="output_format">
              <select id="field-output_format" value=${format} onChange=${(/** @type {any} */ event) =>
                change({ format: event.target.value })}>
              ${["png", "webp", "jpeg"].map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
            </select>
              <//>
              </div>
              <${Field} label="Deadline" hint="seconds; refused when it cannot be met" name="deadline_ms">
                <input id="field-deadline_ms" inputmode="decimal" placeholder="none" value=${deadline} onInput=${(
                  /** @type {any} */ event,
                ) => change({ deadline: event.target.value.replace(/[^0-9.]/g, "") })}
                  ...${tied("deadline_ms")} />
                <//>
                <label class="check">
                  <input
                    type="checkbox"
                    checked=${form.value.embed}
                    onChange=${(/** @type {any} */ event) => change({ embed: event.target.checked })}
                  />
                  <span>PNG files carry their prompt and settings</span>
                </label>
                </details>
  `;
}

/** How long such a request took lately. */
function usualSeconds() {
  const steps = form.value.steps;
  const alike = images.value.filter(({ wanted }) =>
    wanted.body.model === card.value?.id && (wanted.body.num_inference_steps ?? null) === steps
  );
  const times = alike.slice(0, 5).map(({ took }) => took).sort((a, b) => a - b);
  return times[Math.floor(times.length / 2)];
}

function Send() {
  const isEdit = form.value.mode === "edit";
  const seconds = usualSeconds();
  const verb = !isEdit ? "Generate" : isMasked.value ? "Edit the marked part" : "Edit the whole image";
  const note = isEdit && source.value && !isMasked.value ? "nothing is marked: all of it may change" : "";
  return html`<div class="send">
    <${Refusal} name="" />
    <${OtherRefusals} />
    ${
    run.value
      ? html`
        <button type="button" class="button is-wide is-stop"
          onClick=${cancel}><${Icon} name="close" /> Cancel <kbd>Esc</kbd></button>
      `
      : html`
        <button type="button" class="button is-wide is-main" disabled=${!card.value}
          onClick=${start}><${Icon} name="play" size="15" /> ${verb} <kbd>Ctrl ↵</kbd></button>
      `
  }
    <p class="send-note">
      <span>${note || (seconds === undefined ? "" : `about ${duration(seconds)}, as lately`)}</span>
      <span>${counted(form.value.n, "image")}</span>
    </p>
  </div>`;
}
