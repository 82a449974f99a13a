// A request of the list as a command: what it was made from in words and images is not kept, and is to be put in.

const NAMES = {
  steps: "num_inference_steps",
  guidance: "guidance_scale",
  seed: "seed",
  n: "n",
  sampler: "sampler",
  strength: "strength",
};

/**
 * @param {any} request
 * @param {string} origin
 * @param {boolean} hasKey
 */
export function curlOf({ workflow, size, inputs, addons, flags, spans }, origin, hasKey) {
  const body = /** @type {Record<string, any>} */ ({ model: workflow, prompt: "PROMPT" });
  if (size) body.size = size;
  for (const [name, field] of Object.entries(NAMES)) if (inputs[name] !== undefined) body[field] = inputs[name];
  const isEdit = flags.includes("edit");
  for (const field of ["lora", "controlnet"]) {
    const uses = addons.filter((/** @type {any} */ each) => each.field === field);
    const more = field === "controlnet" ? { image: "MAP IN BASE64" } : {};
    if (uses.length > 0) body[field] = uses.map((/** @type {any} */ { name }) => ({ name, ...more }));
  }
  const lines = [`curl -sS ${origin}/v1/images/${isEdit ? "edits" : "generations"}`];
  if (hasKey) lines.push(`-H "Authorization: Bearer $LEGO_SERVE_KEY"`);
  if (!isEdit) lines.push(`-H "Content-Type: application/json" -d ${quoted(JSON.stringify(body))}`);
  else {
    lines.push("-F image=@image.png");
    if (spans.some((/** @type {any} */ { kind }) => kind === "encode_edit")) lines.push("-F mask=@mask.png");
    for (const [name, value] of Object.entries(body)) {
      lines.push(`--form-string ${quoted(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`);
    }
  }
  return lines.join(" \\\n  ");
}

/** @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
