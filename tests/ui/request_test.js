import { codeOf, pythonValue, shellWord } from "../../lego_serve/gateway/ui/static/play/code.js";
import { bitsOf } from "../../lego_serve/gateway/ui/static/play/maskfile.js";
import { within } from "../../lego_serve/gateway/ui/static/play/bounds.js";
import { differences, EMPTY, formOf, requestOf } from "../../lego_serve/gateway/ui/static/play/request.js";
import { equal } from "./equal.js";

const FULL = {
  ...EMPTY,
  prompt: 'it\'s a "cube" \\ ü\n$HOME `x`',
  model: "lego-tiny",
  size: "128x96",
  steps: 12,
  guidance: 3.5,
  seed: "7",
  n: 2,
  negative: "blur",
  sampler: "dpmpp_2m",
  tier: "high",
  deadline: "2.5",
  lora: [{ name: "a", scale: 0.8, start: 0, end: 0.5 }],
};

Deno.test("a form comes back from its request", () => {
  const generation = requestOf(FULL);
  equal(formOf(generation, EMPTY), FULL);
  const edit = {
    ...FULL,
    mode: /** @type {"edit"} */ ("edit"),
    strength: 0.5,
    caption: "a cube",
    dilation: 3,
    feather: 9,
    reuse: "exact",
  };
  equal(formOf(requestOf(edit, true), EMPTY), edit);
});

Deno.test("a request has no field that nobody set", () => {
  equal(requestOf({ ...EMPTY, prompt: "a", model: "m", embed: false }).body, { model: "m", prompt: "a" });
});

Deno.test("fields of a mask are left out where nothing is marked", () => {
  const form = { ...FULL, mode: /** @type {"edit"} */ ("edit"), caption: "a cube", dilation: 3 };
  equal(["caption", "mask_dilation"].filter((name) => name in requestOf(form, false).body), []);
  equal(requestOf(form, false).files, { image: "image.png" });
  equal(requestOf({ ...form, template: "tmpl_1" }, true).files, { mask: "mask.png" });
});

Deno.test("only differences are listed, long values by their length", () => {
  const one = { a: 1, b: [1], image: [{ data: "x".repeat(400) }] };
  equal(differences(one, { ...one, a: 2, c: true }), [["a", "1", "2"], ["c", "–", "true"]]);
  equal(differences({}, one)[2], ["image", "–", '[{"data":"400 characters"}]']);
});

Deno.test("a word of a shell is read as it was", async () => {
  for (const text of ["plain", "it's", 'say "x"', "$HOME `id` \\n", "", "a\nb", "ü–🙂"]) {
    const done = await new Deno.Command("sh", { args: ["-c", `printf %s ${shellWord(text)}`] }).output();
    equal(new TextDecoder().decode(done.stdout), text);
  }
});

Deno.test("values of Python", () => {
  equal(pythonValue({ a: [true, null, 1.5], b: 'x"' }), '{"a": [True, None, 1.5], "b": "x\\""}');
});

Deno.test("every language has the request's own values and no key", () => {
  for (const language of /** @type {const} */ (["curl", "python", "cli"])) {
    const code = codeOf(language, requestOf(FULL), "http://h:1", true);
    for (const part of ["http://h:1", "lego-tiny", "128x96", "3.5"]) {
      if (!code.includes(part)) throw new Error(`${language}: ${part}`);
    }
  }
  equal(
    codeOf("cli", requestOf(FULL), "http://h:1", false).startsWith(
      "# The command has no option for: n, sampler, embed_request, deadline_ms",
    ),
    true,
  );
});

Deno.test("a command edits as well, and says what it has no option for", () => {
  const edit = {
    ...FULL,
    n: 1,
    sampler: "",
    deadline: "",
    embed: false,
    mode: /** @type {"edit"} */ ("edit"),
    prompt: "- a cube",
    strength: 0.5,
    caption: "it's",
    feather: 9,
  };
  equal(
    codeOf("cli", requestOf(edit, true), "http://h:1", true),
    `# The command has no option for: mask_feather, lora start, end.
lego-serve edit \\
  --image image.png \\
  --mask mask.png \\
  --model lego-tiny \\
  --size 128x96 \\
  --steps 12 \\
  --guidance 3.5 \\
  --negative blur \\
  --seed 7 \\
  --strength 0.5 \\
  --caption 'it'\\''s' \\
  --tier high \\
  --lora a:0.8 \\
  --url http://h:1 \\
  --out image.png \\
  -- '- a cube'`,
  );
});

Deno.test("a mask's file marks what it leaves transparent, else what it has white", () => {
  const [clear, faint, white, black] = [[0, 0, 0, 0], [9, 9, 9, 254], [255, 255, 255, 255], [0, 0, 0, 255]];
  equal([...bitsOf(Uint8ClampedArray.from([clear, faint, white, black].flat()))], [1, 1, 0, 0]);
  equal([...bitsOf(Uint8ClampedArray.from([white, black].flat()))], [1, 0]);
});

Deno.test("history keeps the newest within its bounds", () => {
  const of = (/** @type {number} */ size) => ({ blob: { size }, source: null, mask: null });
  equal(within([of(5), of(5), of(5)], 10, 10).length, 2);
  equal(within([of(50), of(5)], 10, 10).length, 1);
  equal(within([of(1), of(1), of(1)], 2, 10).length, 2);
});
