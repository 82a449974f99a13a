// The middle: the image, its preview while it is made, the mask over it, and the film of earlier ones.
import { duration, percent } from "../app/format.js";
import { Icon } from "../app/icons.js";
import { Dialog } from "../app/kit.js";
import { classes, html, useEffect, useState } from "../app/lib.js";
import { Comparison } from "./compare.js";
import { clear, images, isKept, remove } from "./history.js";
import { readInto } from "./maskfile.js";
import { Painter } from "./painter.js";
import { formOf } from "./request.js";
import {
  change,
  compared,
  form,
  isComparing,
  loadError,
  marked,
  mask,
  maskChanged,
  maskTick,
  run,
  shown,
  source,
  takeSource,
} from "./state.js";
import { MaskTools } from "./tools.js";

export function Stage() {
  const [first] = shown.value;
  const image = images.value.find(({ id }) => id === first);
  const isPainting = form.value.mode === "edit" && source.value && !run.value && !isComparing.value;
  return html`
    <main class="stage" aria-label="Image">
      <div class="tools" role="toolbar" aria-label="Tools">
          ${isPainting ? html`<${PaintTools} />` : html`<${ImageTools} image=${image} />`}
        </div>
      <div class="board-room">
          ${run.value
            ? html`<${Making} />`
            : isComparing.value && image
            ? html`<${Comparison} image=${image} />`
            : isPainting
            ? html`<${Painting} />`
            : shown.value.length > 1
            ? html`<${Sheet} />`
            : html`<${Made} image=${image} />`}
        </div>
      <${Film} />
    </main>
  `;
}

/** @param {[number, number]} size */
function boardStyle([width, height]) {
  return { "--ratio": `${width / height}`, aspectRatio: `${width} / ${height}` };
}

/**
 * Rows and columns that are about as many.
 * @param {number} count
 * @param {[number, number]} size
 */
function sheetStyle(count, [width, height]) {
  const columns = count === 3 ? 3 : Math.ceil(Math.sqrt(count));
  return { "--columns": `${columns}`, "--rows": `${Math.ceil(count / columns)}`, "--ratio": `${width / height}` };
}

function Painting() {
  const now = /** @type {NonNullable<typeof source.value>} */ (source.value);
  const board = /** @type {import("./maskbits.js").Mask} */ (mask.value);
  return html`
    <div class="board" style=${boardStyle([now.width, now.height])}>
      <${Painter} mask=${board} tick=${maskTick.value} onChange=${maskChanged} url=${now
        .url} look="hatch" label="Mask" />
    </div>
    <p
      class="board-note"><strong>Paint over what is to change.</strong> <span>All else comes back as it is, pixel by pixel.</span></p>
  `;
}

function PaintTools() {
  const board = /** @type {import("./maskbits.js").Mask} */ (mask.value);
  const share = marked.value / board.bits.length;
  return html`
    <${MaskTools} mask=${board} tick=${maskTick.value} onChange=${maskChanged} />
    <span class="spacer"></span>
    <span class="badge is-accent" role="status">${marked.value === 0
      ? "nothing marked"
      : `${percent(share, share < 0.01 ? 1 : 0)} marked`}</span>
  `;
}

/** @param {{image: import("./history.js").KeptImage | undefined}} props */
function ImageTools({ image }) {
  if (run.value || !image) {
    return html`<span class="hint">${run.value ? `${run.value.size[0]} × ${run.value.size[1]}` : ""}</span>`;
  }
  const { wanted } = image;
  const reuse = async () => {
    if (image.source) await takeSource(image.source, wanted.body.template ?? "film");
    if (image.source && mask.value) {
      mask.value.do({ kind: "clear" });
      if (image.mask) await readInto(mask.value, image.mask);
      maskChanged();
    }
    form.value = { ...formOf(wanted, form.value), seed: String(image.seed) };
    change({});
  };
  const edit = async () => {
    const caption = wanted.body.prompt;
    if (await takeSource(image.blob, "film")) change({ caption, model: wanted.body.model, prompt: "" });
  };
  const isTwo = isComparing.value;
  return html`
    <span class="hint">${image.width} × ${image.height}</span>
    <span class="spacer"></span>
    <button type="button" class="button is-plain" aria-pressed=${isTwo} disabled=${images.value.length < 2 &&
      !image.source} onClick=${() => (isComparing.value = !isTwo)}>
          <${Icon} name="compare" /> Compare
        </button>
    <button type="button" class="button is-plain" onClick=${reuse}
      title="Take all settings of this image"><${Icon} name="reuse" /> Reuse</button>
    <button type="button" class="icon-button" aria-label="Edit this image" title="Edit this image"
      onClick=${edit}><${Icon} name="brush" /></button>
    <a class="icon-button" href=${image.url} download=${fileName(image)} aria-label="Download"
      title="Download"><${Icon} name="download" /></a>
  `;
}

/** @param {import("./history.js").KeptImage} image */
function fileName(image) {
  return `${image.wanted.body.model}-${image.seed}.${image.blob.type.split("/")[1]}`;
}

function Making() {
  const { lanes, size, began } = /** @type {NonNullable<typeof run.value>} */ (run.value);
  return html`
    <div class=${classes("lanes", lanes.length > 1 && "is-many")} style=${sheetStyle(lanes.length, size)}>
          ${lanes.map((lane, index) =>
            html`<div class="board is-making" key=${index} style=${boardStyle(size)}>
        ${lane.before && html`<img key=${`before ${lane.before}`} src=${lane.before} alt="" />`}
        ${
              lane.preview
                ? html`<img key=${lane.preview} class="preview" src=${lane.preview} alt=${`Preview after step ${lane.previewStep}`} />`
                : html`<span class="brick-wait" aria-hidden="true"></span>`
            }
        ${lane.preview && html`<span class="tag">preview, step ${lane.previewStep}</span>`}
      </div>`
          )}
        </div>
    <${Progress} lanes=${lanes} began=${began} />
  `;
}

/** @param {{lanes: import("./state.js").Lane[], began: number}} props */
function Progress({ lanes, began }) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => again((count) => count + 1), 500);
    return () => clearInterval(timer);
  }, []);
  const last = lanes.reduce((slowest, lane) => (lane.step < slowest.step ? lane : slowest), lanes[0]);
  const steps = Math.max(last.steps, 1);
  const isOn = last.step > 0;
  const waited = (performance.now() - began) / 1000;
  const said = isOn ? `Step ${last.step} of ${last.steps}` : "Waiting for a place";
  return html`
    <div class="progress">
      <p><strong>${said}</strong> <span>${isOn ? (lanes.length > 1 ? "slowest of them" : "") : duration(waited)}</span>
          <span class="spacer"></span><span>${isOn
            ? `about ${duration(Math.max(0.05, ...lanes.map(({ etaS }) => etaS || 0)))} left`
            : ""}</span></p>
      <div class="steps" role="progressbar" aria-label="Steps" aria-valuemin="0" aria-valuemax=${steps}
        aria-valuenow=${last.step}>
          ${Array.from(
            { length: Math.min(steps, 100) },
            (_, index) =>
              html`<span key=${index} class=${
                classes("step", index < (last.step / steps) * Math.min(steps, 100) && "is-done")
              }></span>`,
          )}
        </div>
    </div>
  `;
}

/** Several images of one request. */
function Sheet() {
  const made = shown.value.map((id) => images.value.find((each) => each.id === id)).filter((each) =>
    each !== undefined
  );
  return html`<div class="lanes is-many" style=${sheetStyle(made.length, [made[0]?.width ?? 1, made[0]?.height ?? 1])}>
    ${
    made.map((image) =>
      html`<button type="button" class="board" key=${image.id} style=${
        boardStyle([image.width, image.height])
      } onClick=${() => (shown.value = [image.id])} aria-label=${`Seed ${image.seed}`}>
        <img src=${image.url} alt=${image.wanted.body.prompt} /><span class="tag">seed ${image.seed}</span>
      </button>`
    )
  }
  </div>`;
}

/** @param {{image: import("./history.js").KeptImage | undefined}} props */
function Made({ image }) {
  if (!image) {
    const isEdit = form.value.mode === "edit";
    return html`
      <div class="board is-empty" style=${boardStyle([1, 1])}>
        <span class="brick-wait is-still" aria-hidden="true"></span>
        <p>${loadError.value
          ? loadError.value.message
          : isEdit
          ? "Drop an image here, paste one, or open a file."
          : "Say what you want to see, then press Generate."}</p>
      </div>
    `;
  }
  return html`
    <div class="board" style=${boardStyle([image.width, image.height])}>
      <img src=${image.url} alt=${image.wanted.body.prompt} />
    </div>
    <p
      class="board-note"><strong>Done in ${duration(image.took)}.</strong> <span>${image.wanted.body
        .prompt}</span><span class="spacer"></span><span>seed ${image.seed}</span></p>
  `;
}

function Film() {
  const [isAsking, setAsking] = useState(false);
  if (images.value.length === 0) {
    return html`
      <div class="film is-empty">
        <p class="hint">Your images come here${isKept.value
          ? ", kept in this browser alone"
          : "; this browser keeps none"}.</p>
      </div>
    `;
  }
  /** @param {import("./history.js").KeptImage} image */
  const choose = (image) => {
    if (isComparing.value && shown.value.length === 1 && image.id !== shown.value[0]) compared.value = image.id;
    else {
      shown.value = [image.id];
      isComparing.value = false;
      if (form.value.mode === "edit" && !run.value) takeSource(image.blob, "film");
    }
  };
  /**
   * @param {KeyboardEvent} event
   * @param {import("./history.js").KeptImage} image
   */
  const press = (event, image) => event.key === "Delete" && remove(image);
  return html`<nav class="film" aria-label="Earlier images">
    ${
    images.value.map((image) =>
      html`
        <button
          type="button"
          key=${image.id}
          class=${classes(
            shown.value.includes(image.id) && "is-shown",
            isComparing.value && compared.value === image.id && "is-other",
          )}
          aria-pressed=${shown.value.includes(image.id)}
          title=${image.wanted.body.prompt}
          onClick=${() => choose(image)}
          onKeyDown=${(/** @type {KeyboardEvent} */ event) => press(event, image)}
        >
                <img src=${image.url} alt=${image.wanted.body.prompt} loading="lazy" />
                ${image.source && html`<span class="film-tag">edit</span>`}
              </button>
      `
    )
  }
    <button type="button" class="button is-small film-clear" onClick=${() =>
    setAsking(true)}><${Icon} name="clear" /> Clear</button>
    ${
    isAsking &&
    html`
      <${Dialog} title="Clear the history?" onClose=${() => setAsking(false)}>
        <p>All ${images.value.length} images kept in this browser go. Nothing of them is on the server.</p>
        <footer>
          <button type="button" class="button" autofocus onClick=${() => setAsking(false)}>Keep them</button>
          <button type="button" class="button is-stop" onClick=${() => (clear(),
            (shown.value = []),
            (isComparing.value = false),
            setAsking(false))}>Clear</button>
        </footer>
        <//>
    `
  }
  </nav>`;
}
