// The image that is edited: from a file, the film or a template.
import { ask, askJson, said } from "../app/api.js";
import { Icon } from "../app/icons.js";
import { toast } from "../app/kit.js";
import { html } from "../app/lib.js";
import { Refusal } from "./fields.js";
import { fileOf, readInto } from "./maskfile.js";
import { change, form, marked, mask, maskChanged, refuse, source, takeSource, templates } from "./state.js";

export function SourceField() {
  const now = source.value;
  return html`<div class="field" role="group" aria-label="Image to edit">
    <div class="label-row">
      <span class="label">Image</span>
      <span class="hint">${now ? `${now.width} × ${now.height}` : "drop or paste one anywhere"}</span>
    </div>
    <div class="source-row">
      ${
    now
      ? html`<img class="source-thumb" src=${now.url} alt="The image to edit" />`
      : html`<span class="source-thumb is-empty"><${Icon} name="image" /></span>`
  }
      <${FileButton} label="Open a file" onFile=${(/** @type {File} */ file) => takeSource(file, "file")} />
      ${
    now && !form.value.template && html`
      <button type="button" class="button is-small" onClick=${register}
        title="Edits of a template read what earlier ones computed">Keep as template</button>
    `
  }
    </div>
    ${
    templates.value.length > 0 &&
    html`<select aria-label="Template" value=${form.value.template} onChange=${(/** @type {any} */ event) =>
      pick(event.target.value)}>
      <option value="">no template</option>
      ${templates.value.map(({ id, name }) => html`<option key=${id} value=${id}>${name}</option>`)}
    </select>`
  }
    ${
    now && html`
      <div class="source-row">
        <span class="label">Mask</span>
        <${FileButton} label="Open a mask" onFile=${openMask} />
        <button type="button" class="button is-small" disabled=${marked.value === 0} onClick=${saveMask}
        ><${Icon} name="download" /> Save it</button>
      </div>
    `
  }
    <${Refusal} name="image" />
    <${Refusal} name="template" />
    <${Refusal} name="mask" />
  </div>`;
}

/** @param {{label: string, accept?: string, onFile: (file: File) => void}} props */
export function FileButton({ label, accept = "image/png,image/jpeg,image/webp", onFile }) {
  /** @param {any} event */
  const choose = (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) onFile(file);
  };
  return html`<label class="button is-small file-button">
    <${Icon} name="upload" /> ${label}
    <input type="file" accept=${accept} onChange=${choose} />
  </label>`;
}

/** @param {File} file */
async function openMask(file) {
  try {
    await readInto(/** @type {import("./maskbits.js").Mask} */ (mask.value), file);
    maskChanged();
  } catch (error) {
    refuse("mask", `The browser cannot read this mask: ${said(error)}`);
  }
}

async function saveMask() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await fileOf(/** @type {import("./maskbits.js").Mask} */ (mask.value)));
  link.download = "mask.png"; // as the code beside calls it
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @param {string} id */
async function pick(id) {
  if (!id) return change({ template: "" });
  const card = templates.value.find((each) => each.id === id);
  try {
    const answer = await ask(`/v1/templates/${encodeURIComponent(id)}/image`);
    if (await takeSource(await answer.blob(), id)) change({ model: card.model, caption: card.caption ?? "" });
  } catch (error) {
    refuse("template", said(error));
  }
}

async function register() {
  const fields = new FormData();
  fields.append("model", form.value.model);
  if (form.value.caption.trim()) fields.append("caption", form.value.caption);
  if (source.value?.blob) fields.append("image", source.value.blob, "image.png");
  try {
    const card = await askJson("/v1/templates", { method: "POST", body: fields });
    templates.value = [...templates.value.filter(({ id }) => id !== card.id), card];
    toast(`Kept as template ${card.name}.`);
    if (card.width === source.value?.width && card.height === source.value?.height) change({ template: card.id });
    else await pick(card.id);
  } catch (error) {
    refuse("template", said(error));
  }
}
