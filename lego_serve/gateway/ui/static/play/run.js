// Runs the form's request, and takes what comes of it.
import { ApiError, ask, said } from "../app/api.js";
import { readEvents } from "../app/events.js";
import { toast } from "../app/kit.js";
import { add } from "./history.js";
import { fileOf } from "./maskfile.js";
import { card, dimensionsOf, form, isComparing, mask, refusals, refuse, run, shown, source, wanted } from "./state.js";

/** Sends the request, follows it to its end, and keeps its images. */
export async function start() {
  if (run.value || !card.value) return; // the models are not known yet
  refusals.value = {};
  const asked = wanted.value;
  const isEdit = asked.path.endsWith("/edits");
  if (!asked.body.prompt.trim()) return refuse("prompt", "Say what the image shall show.");
  if (isEdit && !source.value) return refuse("image", "Choose an image to edit: from the film, a file or a template.");
  const abort = new AbortController();
  const lanes = Array.from({ length: asked.body.n ?? 1 }, emptyLane);
  run.value = { began: performance.now(), lanes, abort, isEdit, size: dimensionsOf(asked) };
  isComparing.value = false;
  const maskFile = asked.files.mask ? await fileOf(/** @type {import("./maskbits.js").Mask} */ (mask.value)) : null;
  try {
    const answer = await ask(asked.path, { ...payload(asked, maskFile), method: "POST", signal: abort.signal });
    const made = await follow(answer, asked, isEdit ? source.value?.blob ?? null : null, maskFile);
    shown.value = made.map(({ id }) => id);
    isComparing.value = isEdit && made.length === 1;
  } catch (error) {
    ended(error);
  } finally {
    for (const { preview, before } of run.value?.lanes ?? []) {
      [preview, before].filter(Boolean).forEach(URL.revokeObjectURL);
    }
    run.value = null;
  }
}

/** Gives up what runs: the server hears of it by the connection's end. */
export function cancel() {
  run.value?.abort.abort();
}

/** @returns {import("./state.js").Lane} */
function emptyLane() {
  return { step: 0, steps: form.value.steps ?? 0, etaS: Number.NaN, preview: "", before: "", previewStep: 0 };
}

/** @param {unknown} error */
function ended(error) {
  if (error instanceof DOMException && error.name === "AbortError") {
    toast("Cancelled.");
    return;
  }
  const facts = error instanceof ApiError ? error : new ApiError(said(error));
  const wait = facts.retryS > 0 ? ` Try again in ${Math.ceil(facts.retryS)} s.` : "";
  refuse(facts.param ?? "", facts.message + wait);
}

/**
 * The body of a request, with what makes it a stream.
 * @param {import("./request.js").Wanted} asked
 * @param {Blob | null} maskFile
 * @returns {RequestInit}
 */
function payload(asked, maskFile) {
  const body = { ...asked.body, stream: true, partial_images: 3, stream_progress: true };
  if (!asked.path.endsWith("/edits")) {
    return { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  }
  const fields = new FormData();
  for (const [name, value] of Object.entries(body)) {
    fields.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  if (asked.files.image && source.value?.blob) fields.append("image", source.value.blob, "image.png");
  if (maskFile) fields.append("mask", maskFile, "mask.png");
  return { body: fields };
}

/**
 * Follows the events of a request to its end and returns its images.
 * @param {Response} answer
 * @param {import("./request.js").Wanted} asked
 * @param {Blob | null} before
 * @param {Blob | null} maskFile
 */
async function follow(answer, asked, before, maskFile) {
  const began = run.value?.began ?? performance.now();
  /** @type {any[]} */
  const completed = [];
  await readEvents(answer, ({ event, data }) => {
    const content = JSON.parse(data);
    if (event === "error") {
      throw new ApiError(content.error.message, { code: content.error.code, param: content.error.param });
    }
    if (event.endsWith(".progress")) progress(content, "");
    else if (event.endsWith(".partial_image")) progress(content.lego, blobUrl(content));
    else if (event.endsWith(".completed")) completed.push(content);
  });
  if (completed.length === 0) throw new ApiError("The connection broke before the image came.");
  const took = (performance.now() - began) / 1000;
  const made = [];
  for (const content of completed) {
    const blob = blobOf(content);
    const [width, height] = content.size.split("x").map(Number);
    const { lego: facts, seed } = content;
    made.push(
      add({
        made: Date.now(),
        wanted: asked,
        blob,
        seed,
        width,
        height,
        took,
        facts,
        source: before,
        mask: maskFile,
      }),
    );
  }
  return made;
}

/**
 * @param {{image_index: number, step: number, steps: number, eta_s: number}} facts
 * @param {string} preview
 */
function progress({ image_index: index, step, steps, eta_s: etaS }, preview) {
  const now = run.value;
  if (!now) return;
  const lanes = [...now.lanes];
  const before = lanes[index] ?? emptyLane();
  if (preview && before.before) URL.revokeObjectURL(before.before);
  const shownNow = preview ? { preview, before: before.preview, previewStep: step } : {};
  lanes[index] = { ...before, step: Math.max(step, before.step), steps, etaS, ...shownNow };
  run.value = { ...now, lanes };
}

/** @param {{b64_json: string, output_format: string}} content */
function blobOf({ b64_json: text, output_format: format }) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: `image/${format}` });
}

/** @param {{b64_json: string, output_format: string}} content */
function blobUrl(content) {
  return URL.createObjectURL(blobOf(content));
}
