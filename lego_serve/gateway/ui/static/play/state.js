// What the playground knows: its form, the models, the image that is edited, and what runs.
import { askJson, said } from "../app/api.js";
import { computed, signal } from "../app/lib.js";
import { Mask } from "./maskbits.js";
import { EMPTY, requestOf } from "./request.js";

/**
 * @typedef {import("./tiers.js").TierRun} TierRun
 * @typedef {{inputs: Record<string, any>, adapters: string[] | null, controlnets: string[], tiers: TierRun[]}} Facts
 * @typedef {{id: string, lego: Facts}} Card
 * @typedef {{blob: Blob | null, url: string, width: number, height: number, from: string}} Source
 * @typedef {{step: number, steps: number, etaS: number, preview: string, before: string, previewStep: number}} Lane
 * @typedef {{began: number, lanes: Lane[], abort: AbortController, isEdit: boolean, size: [number, number]}} Run
 */

const STORED_FORM = "lego.form";
const STARTING_MS = 3000; // until a server that starts is asked again

export const form = signal(storedForm());
export const cards = signal(/** @type {Card[] | null} */ (null));
export const loadError = signal(/** @type {import("../app/api.js").ApiError | null} */ (null));
export const facts = signal({ keys: false, upload_bytes: 50_000_000, upload_pixels: 52_000_000, is_ready: false });
export const source = signal(/** @type {Source | null} */ (null));
export const mask = signal(/** @type {Mask | null} */ (null));
/** How many pixels of the mask are marked. */
export const marked = signal(0);
/** Rises with every change of the mask. */
export const maskTick = signal(0);
export const run = signal(/** @type {Run | null} */ (null));
/** The images shown on the stage: several after a run of several. */
export const shown = signal(/** @type {number[]} */ ([]));
export const isComparing = signal(false);
export const compared = signal(/** @type {number | null} */ (null));
/** Refusals by the field they are about; the rest under an empty name. */
export const refusals = signal(/** @type {Record<string, string>} */ ({}));
export const templates = signal(/** @type {any[]} */ ([]));

/** @returns {import("./request.js").Form} */
function storedForm() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED_FORM) ?? "{}");
    return { ...EMPTY, ...stored, template: "", controlnet: [] };
  } catch {
    return EMPTY;
  }
}

/** @param {Partial<import("./request.js").Form>} changes */
export function change(changes) {
  form.value = { ...form.value, ...changes };
  forgive(Object.keys(changes).map((name) => FIELDS[name] ?? name));
  try {
    localStorage.setItem(STORED_FORM, JSON.stringify({ ...form.value, controlnet: [], template: "" }));
  } catch {
    // The form is forgotten with the page.
  }
}

/**
 * Takes back the refusals of fields that have been changed, and those that are about no field.
 * @param {string[]} names
 */
function forgive(names) {
  const all = Object.entries(refusals.value);
  const left = all.filter(([name]) => name && !names.some((each) => name.startsWith(each)));
  if (left.length < all.length) refusals.value = Object.fromEntries(left);
}

/** The request's field of each of the form's, where they differ. */
const FIELDS = /** @type {Record<string, string>} */ ({
  steps: "num_inference_steps",
  guidance: "guidance_scale",
  negative: "negative_prompt",
  format: "output_format",
  deadline: "deadline_ms",
  dilation: "mask_dilation",
  feather: "mask_feather",
});

/** The models that may be chosen in the form's mode. */
export const choices = computed(() => {
  const all = cards.value ?? [];
  const plain = all.filter(({ id, lego: { inputs } }) => !takesImage(inputs) && !isSibling(id, all));
  if (form.value.mode === "generate") return plain;
  const edited = plain.filter(({ id }) => all.some((other) => [`${id}-edit`, `${id}-img2img`].includes(other.id)));
  const lone = all.filter(({ id, lego: { inputs } }) => takesImage(inputs) && !isSibling(id, all));
  return [...edited, ...lone.filter(({ id }) => !edited.some((each) => id.startsWith(`${each.id}-`)))];
});

/** @param {Record<string, any>} inputs */
function takesImage(inputs) {
  return "image" in inputs || "edit" in inputs;
}

/**
 * Whether a model is led to from another one, by what a request adds.
 * @param {string} id
 * @param {Card[]} all
 */
function isSibling(id, all) {
  const plain = id.replace(/(-controlnet)?(-lora)?$/, "");
  return plain !== id && all.some((other) => other.id === plain);
}

/** The chosen model's card. */
export const card = computed(() => choices.value.find(({ id }) => id === form.value.model) ?? choices.value[0] ?? null);

/** What the workflow that will run takes. */
const taken = computed(() => {
  if (!card.value || form.value.mode === "generate") return card.value?.lego;
  const wanted = `${card.value.id}-${marked.value > 0 ? "edit" : "img2img"}`;
  return (cards.value?.find(({ id }) => id === wanted) ?? card.value).lego;
});

/** Its inputs, with their bounds. */
export const inputs = computed(() => taken.value?.inputs ?? {});

/** Its tiers besides `exact`; none where its model has not been tuned. */
export const tiers = computed(() => taken.value?.tiers ?? []);

export const isMasked = computed(() => form.value.mode === "edit" && marked.value > 0);
/** The request that the button would send now. */
export const wanted = computed(() =>
  requestOf({
    ...form.value,
    model: card.value?.id ?? form.value.model,
    tier: tiers.value.length > 0 ? form.value.tier : "",
  }, isMasked.value)
);

export async function loadModels() {
  try {
    facts.value = await askJson("/v1/ui");
    const answer = await askJson("/v1/models");
    cards.value = answer.data;
    loadError.value = null;
    const known = choices.value.map(({ id }) => id);
    if (!known.includes(form.value.model)) change({ model: known[0] ?? "" });
    templates.value = (await askJson("/v1/templates").catch(() => ({ data: [] }))).data;
    if (!facts.value.is_ready) setTimeout(loadModels, STARTING_MS);
  } catch (error) {
    loadError.value = /** @type {any} */ (error);
    if (loadError.value?.code === "server_starting") setTimeout(loadModels, STARTING_MS);
  }
}

/**
 * Takes an image to be edited, with a mask of its size; a mask of that size is kept.
 * @param {Blob} blob
 * @param {string} from
 */
export async function takeSource(blob, from) {
  const { upload_bytes: most, upload_pixels: mostPixels } = facts.value;
  if (!/^image\/(png|jpeg|webp)$/.test(blob.type)) return refuse("image", "Only PNG, JPEG and WebP can be edited.");
  if (blob.size > most) return refuse("image", `The file has ${blob.size} bytes; this server takes ${most}.`);
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(url);
    return refuse("image", `The browser cannot read this image: ${said(error)}`);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  if (width * height > mostPixels) {
    return refuse("image", `It has ${width} × ${height} pixels; this server takes ${mostPixels}.`);
  }
  if (source.value) URL.revokeObjectURL(source.value.url);
  source.value = { blob, url, width, height, from };
  if (mask.value?.width !== width || mask.value.height !== height) mask.value = new Mask(width, height);
  maskChanged();
  forgive(["image", "template"]);
  isComparing.value = false;
  change({ mode: "edit", size: "", template: from.startsWith("tmpl_") ? from : "" });
  return true;
}

export function maskChanged() {
  forgive(["mask"]);
  marked.value = mask.value?.count ?? 0;
  maskTick.value += 1;
}

/**
 * @param {string} field
 * @param {string} sentence
 */
export function refuse(field, sentence) {
  refusals.value = { ...refusals.value, [field]: sentence };
  setTimeout(() => document.querySelector(".refusal")?.scrollIntoView({ block: "nearest" })); // once it is drawn
  return false;
}

/**
 * The size (width, height) that a request's images will have, as far as it is known before.
 * @param {import("./request.js").Wanted} asked
 * @returns {[number, number]}
 */
export function dimensionsOf(asked) {
  const match = /^(\d+)x(\d+)$/.exec(asked.body.size ?? "");
  if (match) return [Number(match[1]), Number(match[2])];
  if (form.value.mode === "edit" && source.value) return [source.value.width, source.value.height];
  const { width, height } = inputs.value;
  return [width?.default ?? 1, height?.default ?? 1];
}
