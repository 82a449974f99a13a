// What a form asks for as the request that is sent, and that same request as code.

/**
 * @typedef {{name: string, scale: number, start: number, end: number}} AdapterUse
 * @typedef {{name: string, image: string, weight: number, start: number, end: number}} ControlUse
 * @typedef {{
 *   mode: "generate" | "edit", prompt: string, negative: string, model: string, size: string, steps: number | null,
 *   guidance: number | null, seed: string, n: number, sampler: string, tier: string, format: string, deadline: string,
 *   embed: boolean, strength: number, caption: string, dilation: number, feather: number, reuse: string, template: string,
 *   lora: AdapterUse[], controlnet: ControlUse[],
 * }} Form
 * @typedef {{path: string, body: Record<string, any>, files: Record<string, string>}} Wanted
 */

/** @type {Form} */
export const EMPTY = {
  mode: "generate",
  prompt: "",
  negative: "",
  model: "",
  size: "",
  steps: null,
  guidance: null,
  seed: "",
  n: 1,
  sampler: "",
  tier: "",
  format: "png",
  deadline: "",
  embed: true,
  strength: 1,
  caption: "",
  dilation: 0,
  feather: 4,
  reuse: "high",
  template: "",
  lora: [],
  controlnet: [],
};

/**
 * The request that a form stands for.  `files` names the files that go along, by their fields.
 * @param {Form} form
 * @param {boolean} [isMasked]
 * @returns {Wanted}
 */
export function requestOf(form, isMasked = false) {
  const isEdit = form.mode === "edit";
  /** @type {Record<string, any>} */
  const body = { model: form.model, prompt: form.prompt };
  if (form.size && !(isEdit && form.template)) body.size = form.size;
  if (form.n > 1) body.n = form.n;
  if (form.seed !== "") body.seed = Number(form.seed);
  if (form.steps !== null) body.num_inference_steps = form.steps;
  if (form.guidance !== null) body.guidance_scale = form.guidance;
  if (form.negative.trim()) body.negative_prompt = form.negative;
  if (form.sampler) body.sampler = form.sampler;
  if (form.tier) body.tier = form.tier;
  if (form.format !== "png") body.output_format = form.format;
  if (form.embed && form.format === "png") body.embed_request = true;
  if (form.deadline !== "") body.deadline_ms = Math.round(Number(form.deadline) * 1000);
  if (form.lora.length > 0) body.lora = form.lora.map(trimmed);
  if (!isEdit) {
    if (form.controlnet.length > 0) body.controlnet = form.controlnet.map(trimmed);
    return { path: "/v1/images/generations", body, files: {} };
  }
  if (form.strength < 1) body.strength = form.strength;
  if (isMasked) Object.assign(body, maskFields(form));
  if (form.template) body.template = form.template;
  /** @type {Record<string, string>} */
  const files = form.template ? {} : { image: "image.png" };
  if (isMasked) files.mask = "mask.png";
  return { path: "/v1/images/edits", body, files };
}

/** @param {Form} form */
function maskFields(form) {
  /** @type {Record<string, any>} */
  const fields = {};
  if (form.caption.trim()) fields.caption = form.caption;
  if (form.dilation > 0) fields.mask_dilation = form.dilation;
  if (form.feather !== 4) fields.mask_feather = form.feather;
  if (form.reuse !== "high") fields.reuse = form.reuse;
  return fields;
}

/**
 * An adapter or ControlNet without what is usual.
 * @param {Record<string, any>} use
 */
function trimmed(use) {
  const usual = /** @type {Record<string, number>} */ ({ start: 0, end: 1, weight: 1 });
  return Object.fromEntries(Object.entries(use).filter(([name, value]) => usual[name] !== value));
}

/**
 * The form that a request came from, as far as it says; the rest stays.
 * @param {Wanted} wanted
 * @param {Form} form
 * @returns {Form}
 */
export function formOf({ path, body }, form) {
  const isEdit = path.endsWith("/edits");
  return {
    ...EMPTY,
    mode: isEdit ? "edit" : "generate",
    format: body.output_format ?? "png",
    model: body.model ?? form.model,
    prompt: body.prompt ?? "",
    size: body.size ?? "",
    n: body.n ?? 1,
    seed: body.seed === undefined ? "" : String(body.seed),
    steps: body.num_inference_steps ?? null,
    guidance: body.guidance_scale ?? null,
    negative: body.negative_prompt ?? "",
    sampler: body.sampler ?? "",
    tier: body.tier ?? "",
    deadline: body.deadline_ms === undefined ? "" : String(body.deadline_ms / 1000),
    strength: body.strength ?? 1,
    caption: body.caption ?? "",
    dilation: body.mask_dilation ?? 0,
    feather: body.mask_feather ?? 4,
    reuse: body.reuse ?? "high",
    template: body.template ?? "",
    lora: (body.lora ?? []).map((/** @type {any} */ use) => ({ name: "", scale: 1, start: 0, end: 1, ...use })),
    controlnet: (body.controlnet ?? []).map((/** @type {any} */ use) => ({
      name: "",
      image: "",
      weight: 1,
      start: 0,
      end: 1,
      ...use,
    })),
  };
}

/**
 * The names and values in which two requests differ; long texts, such as images, are said by their length.
 * @param {Record<string, any>} one
 * @param {Record<string, any>} other
 * @returns {[string, string, string][]}
 */
export function differences(one, other) {
  const names = [...new Set([...Object.keys(one), ...Object.keys(other)])].sort();
  return names
    .filter((name) => JSON.stringify(one[name]) !== JSON.stringify(other[name]))
    .map((name) => [name, inWords(one[name]), inWords(other[name])]);
}

/** @param {unknown} value */
function inWords(value) {
  if (value === undefined) return "–";
  if (typeof value === "string") return value.length > 300 ? `${value.slice(0, 300)}…` : value;
  return JSON.stringify(value, (_, part) => (isLong(part) ? `${part.length} characters` : part));
}

/** @param {unknown} value */
function isLong(value) {
  return typeof value === "string" && value.length > 300;
}
