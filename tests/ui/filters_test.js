import { decoded, filtersOf } from "../../lego_serve/gateway/ui/static/dash/filters.js";
import { equal } from "./equal.js";

const HOSTILE = [
  "<img src=x onerror=alert(1)>",
  "a&tenant=b",
  "50 %",
  "\u202egnp.exe",
  "\u{1f9f1}".repeat(100),
  "a/../b",
];

Deno.test("filters go into the query one by one, whatever is in them, and others of the address do not", () => {
  for (const text of HOSTILE) {
    const made = filtersOf(new URLSearchParams({ q: text, tenant: "", cursor: "9" }));
    equal([...new URLSearchParams(made.text)], [["q", text]]);
    equal(made.complaint, "");
  }
});

Deno.test("a filter of more than 200 characters is complained of with both numbers", () => {
  equal(filtersOf(new URLSearchParams({ q: "w".repeat(200) })).complaint, "");
  const { complaint } = filtersOf(new URLSearchParams({ q: "w", tenant: "w".repeat(32000) }));
  equal(complaint, "A filter may have 200 characters and this one has 32000: ask for fewer words.");
});

Deno.test("the longest filters that are sent, of the widest characters, stay within a server's addresses", () => {
  const wide = "\u{1f9f1}".repeat(100); // 200 code units, 1,200 bytes when encoded
  const names = ["q", "state", "workflow", "outcome", "tenant", "over_s"];
  const { text, complaint } = filtersOf(new URLSearchParams(names.map((name) => [name, wide])));
  equal(complaint, "");
  if (text.length > 8000) throw new Error(`${text.length} bytes`);
});

Deno.test("a part of a path that is no encoding stays as it is", () => {
  equal(decoded("a%2Fb"), "a/b");
  equal(decoded("%zz"), "%zz");
  equal(decoded("50%"), "50%");
});
