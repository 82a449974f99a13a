import { curlOf } from "../../lego_serve/gateway/ui/static/dash/curl.js";
import { inPlace } from "../../lego_serve/gateway/ui/static/dash/merge.js";
import { equal } from "./equal.js";

Deno.test("rows stay where they are, as they are now, and new ones come after", () => {
  const before = [{ id: "a", step: 1 }, { id: "b", step: 1 }, { id: "c", step: 1 }];
  const rows = [{ id: "d", step: 0 }, { id: "c", step: 2 }];
  equal(inPlace(before, rows, { a: { id: "a", step: 9 } }), [
    { id: "a", step: 9 },
    { id: "b", step: 1 },
    { id: "c", step: 2 },
    { id: "d", step: 0 },
  ]);
});

const ROW = {
  workflow: "lego's",
  size: "128x96",
  inputs: { steps: 4, seed: 7, width: 128 },
  addons: [{ field: "lora", name: "a" }],
  flags: ["adapters"],
  spans: [],
};

Deno.test("a generation as a command", () => {
  equal(
    curlOf(ROW, "http://h:1", false),
    `curl -sS http://h:1/v1/images/generations \\
  -H "Content-Type: application/json" -d '{"model":"lego'\\''s","prompt":"PROMPT","size":"128x96","num_inference_steps":4,"seed":7,"lora":[{"name":"a"}]}'`,
  );
});

Deno.test("an edit as a command, with its mask and the name of the key", () => {
  const edit = { ...ROW, flags: ["edit"], spans: [{ kind: "encode_edit" }], inputs: { strength: 0.5 } };
  equal(
    curlOf(edit, "http://h:1", true),
    `curl -sS http://h:1/v1/images/edits \\
  -H "Authorization: Bearer $LEGO_SERVE_KEY" \\
  -F image=@image.png \\
  -F mask=@mask.png \\
  --form-string 'model=lego'\\''s' \\
  --form-string 'prompt=PROMPT' \\
  --form-string 'size=128x96' \\
  --form-string 'strength=0.5' \\
  --form-string 'lora=[{"name":"a"}]'`,
  );
  equal(curlOf({ ...edit, spans: [] }, "http://h:1", true).includes("mask"), false);
});
