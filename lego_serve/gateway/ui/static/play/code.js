// The request that is sent, as curl, Python and a command.  Images in it are named as files beside the code.

/** @typedef {import("./request.js").Wanted} Wanted */

const KEY = "$LEGO_SERVE_KEY";
/** The fields of OpenAI's own methods; their SDK takes the others in `extra_body`. */
const OPENAI = ["model", "prompt", "size", "n", "output_format"];

/**
 * @param {"curl" | "python" | "cli"} language
 * @param {Wanted} wanted
 * @param {string} origin
 * @param {boolean} hasKey
 */
export function codeOf(language, wanted, origin, hasKey) {
  const named = withoutImages(wanted);
  if (language === "curl") return curl(named, origin, hasKey);
  return language === "python" ? python(named, origin, hasKey) : command(named, origin);
}

/**
 * A text as one word of a POSIX shell.
 * @param {string} text
 */
export function shellWord(text) {
  return /^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * A JSON value as Python writes it.
 * @param {any} value
 * @returns {string}
 */
export function pythonValue(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (value instanceof Named) return `base64.b64encode(open(${JSON.stringify(value.file)}, "rb").read()).decode()`;
  if (typeof value === "object") {
    const entries = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonValue(each)}`);
    return `{${entries.join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** An image that stands in a body, by the name of a file. */
class Named {
  /** @param {string} file */
  constructor(file) {
    this.file = file;
  }
}

/**
 * @param {Wanted} wanted
 * @returns {Wanted}
 */
function withoutImages(wanted) {
  if (!wanted.body.controlnet) return wanted;
  const controlnet = wanted.body.controlnet.map((/** @type {any} */ use, /** @type {number} */ index) => ({
    ...use,
    image: new Named(`map${index + 1}.png`),
  }));
  return { ...wanted, body: { ...wanted.body, controlnet } };
}

/**
 * @param {Wanted} wanted
 * @param {string} origin
 * @param {boolean} hasKey
 */
function curl({ path, body, files }, origin, hasKey) {
  const lines = [`curl -sS --fail-with-body ${origin}${path}`];
  let before = "";
  if (hasKey) lines.push(`-H "Authorization: Bearer ${KEY}"`);
  if (path.endsWith("/edits")) {
    for (const [field, file] of Object.entries(files)) lines.push(`-F ${field}=@${file}`);
    for (const [field, value] of Object.entries(body)) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      lines.push(`--form-string ${shellWord(`${field}=${text}`)}`);
    }
  } else {
    const text = quotedJson(body);
    lines.push(`-H "Content-Type: application/json"`, body.controlnet ? "-d @-" : `-d ${text}`);
    if (body.controlnet) before = `printf %s ${text} |\n  `; // images are too long for an argument
  }
  const save = `python3 -c 'import base64, json, sys
for i, image in enumerate(json.load(sys.stdin)["data"], 1):
    open(f"image{i}.${body.output_format ?? "png"}", "wb").write(base64.b64decode(image["b64_json"]))'`;
  return `${before}${lines.join(" \\\n  ")} |\n  ${save}`;
}

/**
 * A body as one word of a shell; images are read from their files by the shell itself.
 * @param {Record<string, any>} body
 */
function quotedJson(body) {
  const marks = /** @type {string[]} */ ([]);
  /** @type {(name: string, value: any) => any} */
  const mark = (_, value) => (value instanceof Named ? `\u0000${marks.push(value.file) - 1}\u0000` : value);
  const lines = Object.entries(body).map(([name, value]) =>
    `  ${JSON.stringify(name)}: ${JSON.stringify(value, mark)}`
  );
  const text = `{\n${lines.join(",\n")}\n}`;
  const quoted = `'${text.replaceAll("'", `'\\''`)}'`;
  return quoted.replace(/\\u0000(\d+)\\u0000/g, (_, index) => `'"$(base64 < ${marks[Number(index)]} | tr -d '\\n')"'`);
}

/**
 * @param {Wanted} wanted
 * @param {string} origin
 * @param {boolean} hasKey
 */
function python({ path, body, files }, origin, hasKey) {
  const isEdit = path.endsWith("/edits");
  const known = Object.entries(body).filter(([name]) => OPENAI.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.includes(name)));
  if (isEdit && extra.lora) extra.lora = JSON.stringify(extra.lora); // a form has text alone
  const key = hasKey ? `os.environ["LEGO_SERVE_KEY"]` : `"none"`;
  const lines = [
    `import base64${hasKey ? "\nimport os" : ""}`,
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=${key})`,
    `answer = client.images.${isEdit ? "edit" : "generate"}(`,
    ...Object.entries(files).map(([field, file]) => `    ${field}=open("${file}", "rb"),`),
    ...known.map(([name, value]) => `    ${name}=${pythonValue(value)},`),
  ];
  if (isEdit && !files.image) lines.push(`    image=[],`);
  if (Object.keys(extra).length > 0) {
    lines.push("    extra_body={");
    for (const [name, value] of Object.entries(extra)) lines.push(`        "${name}": ${pythonValue(value)},`);
    lines.push("    },");
  }
  lines.push(
    ")",
    "for i, image in enumerate(answer.data, 1):",
    `    open(f"image{i}.${body.output_format ?? "png"}", "wb").write(base64.b64decode(image.b64_json))`,
  );
  return lines.join("\n");
}

/** The command's options by the request's fields. */
const OPTIONS = {
  template: "template",
  model: "model",
  size: "size",
  num_inference_steps: "steps",
  guidance_scale: "guidance",
  negative_prompt: "negative",
  seed: "seed",
  strength: "strength",
  caption: "caption",
  tier: "tier",
};

/**
 * @param {Wanted} wanted
 * @param {string} origin
 */
function command({ path, body, files }, origin) {
  const lines = [`lego-serve ${path.endsWith("/edits") ? "edit" : "generate"}`];
  const isOption = body.prompt.startsWith("-"); // as a command reads it: such a prompt comes last, after two dashes
  if (!isOption) lines[0] += ` ${shellWord(body.prompt)}`;
  for (const [field, file] of Object.entries(files)) lines.push(`--${field} ${file}`);
  for (const [field, option] of Object.entries(OPTIONS)) {
    if (body[field] !== undefined) lines.push(`--${option} ${shellWord(String(body[field]))}`);
  }
  for (const use of body.lora ?? []) lines.push(`--lora ${shellWord(`${use.name}:${use.scale}`)}`);
  for (const use of body.controlnet ?? []) {
    lines.push(`--controlnet ${shellWord(`${use.name}:${use.image.file}:${use.weight ?? 1}`)}`);
  }
  lines.push(`--url ${origin}`, `--out image.${body.output_format ?? "png"}`);
  if (isOption) lines.push(`-- ${shellWord(body.prompt)}`);
  const known = [...Object.keys(OPTIONS), "prompt", "lora", "controlnet", "output_format"];
  const left = Object.keys(body).filter((field) => !known.includes(field));
  for (const field of ["lora", "controlnet"]) {
    if (body[field]?.some((/** @type {any} */ use) => "start" in use || "end" in use)) left.push(`${field} start, end`);
  }
  const note = left.length > 0 ? `# The command has no option for: ${left.join(", ")}.\n` : "";
  return note + lines.join(" \\\n  ");
}
