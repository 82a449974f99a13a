// What is kept in memory: prompts, adapters, templates; how alike edits were; and the adapters there are.
import { bytes, counted, percent, tail } from "../app/format.js";
import { Words } from "../app/kit.js";
import { html, useState } from "../app/lib.js";
import { Failure, useAnswer, useBeat } from "./asking.js";
import { Templates } from "./templates.js";

/** @type {Record<string, string>} */
const SAYS = {
  prompts: "Encoded prompts; one that is found is not encoded again.",
  adapters: "Adapters (LoRA) in replicas and in the LoRA node.",
  templates: "Activations that masked edits read instead of computing them.",
  images: "Encoded images of edits.",
  controlnets: "ControlNets in memory.",
  models: "Nodes in the memory of shared workers.",
  host: "Weights that shared workers keep in host memory, of nodes evicted from their GPU.",
};

/** What is kept without being asked for: nobody counts how often it was found. */
const HELD = ["images", "models", "host"];

export function Caches() {
  const [found, error, again] = useAnswer("/v1/admin/caches", useBeat(3));
  const adapters = useAnswer("/v1/admin/adapters", useBeat(30));
  const caches = found?.data;
  const isFirstKnown = Boolean(found || error);
  // Each list is drawn when those above it are, so that none moves when another comes.
  return html`
    <${Failure} error=${error} onRetry=${again} />
    ${!caches && !error && html`<div class="card shape is-tall"></div>`}
    ${caches?.length === 0 && html`<p class="card empty">No replica keeps anything yet.</p>`}
    <div class="cache-cards">${(caches ?? []).map((/** @type {any} */ row) =>
      html`<${Card} key=${`${row.kind} ${row.model}`} row=${row} />`
    )}</div>
    ${found?.comparisons.length > 0 && html`<${Comparisons} rows=${found.comparisons} />`}
    ${isFirstKnown && html`<${AdapterTable} answer=${adapters} />`}
    <${Templates} isShown=${isFirstKnown && Boolean(adapters[0] || adapters[1])} />
  `;
}

/** @param {{row: any}} props */
function Card({ row }) {
  const { hits, misses, used, budget, evicted, replicas } = row;
  const share = hits + misses > 0 ? hits / (hits + misses) : null;
  return html`<section class="card" aria-label=${`${row.kind} of ${row.model}`}>
    <header><h2>${row.kind[0].toUpperCase()}${
    row.kind.slice(1)
  }</h2><span class="hint words">${row.model}</span></header>
    <p class="hint">${SAYS[row.kind] ?? ""}</p>
    <${Figure} row=${row} share=${share} />
    ${
    replicas.map((/** @type {any} */ each) =>
      html`<div class="cache-line" key=${each.id}><span>${each.component} <span class="mono">${
        tail(each.id)
      }</span></span>
      <span class="brick-bar is-wide"><span class="part is-control" style=${{
        width: each.budget > 0 ? `${Math.min(100, (each.used / each.budget) * 100)}%` : "0",
      }}></span></span>
      <span class="hint">${bytes(each.used)}${each.budget > 0 ? ` of ${bytes(each.budget)}` : ""}</span></div>`
    )
  }
    ${
    replicas.length > 1 &&
    html`<p class="hint">${bytes(used)} of ${bytes(budget)}, ${
      percent(budget > 0 ? used / budget : null, 0)
    } in all</p>`
  }
    ${evicted > 0 && html`<p class="hint">${evicted} have made room for others</p>`}
  </section>`;
}

/** @param {{row: any, share: number | null}} props */
function Figure({ row: { kind, hits, misses, used, budget }, share }) {
  if (HELD.includes(kind)) {
    return html`
      <p class="tile-value"><strong>${budget > 0 ? ((used / budget) * 100).toFixed(0) : "–"}</strong>
        <span>% of their place taken</span></p>
    `;
  }
  return html`<p class="tile-value"><strong>${share === null ? "–" : (share * 100).toFixed(0)}</strong> <span>${
    share === null ? "not asked for yet" : `% found, ${hits} of ${hits + misses}`
  }</span></p>`;
}

/** @param {{answer: ReturnType<typeof useAnswer>}} props */
function AdapterTable({ answer: [list, error, again] }) {
  const [word, setWord] = useState("");
  if (!list) return html`<${Failure} error=${error} onRetry=${again} />`;
  if (list.data.length + list.passed_over.length === 0) return null;
  const found = list.data.filter((/** @type {any} */ { id }) => id.includes(word.toLowerCase()));
  return html`<section class="card" aria-labelledby="adapters-title">
    <header><h2 id="adapters-title">Adapters</h2><span class="hint">${
    counted(list.data.length, "adapter")
  }</span><span class="spacer"></span>
      <label class="filter"><span class="for-ears">Find an adapter</span><input type="search" placeholder="Find an adapter" value=${word} onInput=${(
    /** @type {any} */ event,
  ) => setWord(event.target.value)} /></label></header>
    <div class="table-room" tabindex="0" role="region" aria-label="Table of adapters"><table class="plain"><thead><tr><th scope="col">Name</th><th scope="col">Model</th><th scope="col">Rank</th><th scope="col">Size</th><th scope="col">At hand in</th></tr></thead>
      <tbody>${
    found.slice(0, 100).map((/** @type {any} */ each) =>
      html`
        <tr key=${each.id}>
          <th scope="row">
            <${Words} text=${each.id} />
          </th>
          <td>
            <${Words} text=${each.model} />
          </td>
          <td>${each.rank ?? "–"}</td>
          <td>${bytes(each.bytes)}</td>
          <td>${each.resident === null || each.resident === undefined
            ? "not known"
            : each.resident.length === 0
            ? "none"
            : html`<${Words} text=${each.resident.join(", ")} />`}</td>
        </tr>
      `
    )
  }</tbody></table></div>
    ${
    list.passed_over.length > 0 && html`<p class="hint">Passed over: ${
      list.passed_over.map((/** @type {any} */ file) => `${file.path} (${file.reason})`).join(" ")
    }</p>`
  }
  </section>`;
}

/** @param {{rows: any[]}} props */
function Comparisons({ rows }) {
  return html`
    <section class="card" aria-labelledby="compared-title">
      <header><h2 id="compared-title">Edits compared</h2><span class="hint">some are computed again in full, to see how alike they are</span></header>
      <div class="table-room" tabindex="0" role="region" aria-label="Table of comparisons">
        <table class="plain">
          <thead>
            <tr>
              <th scope="col">Workflow</th>
              <th scope="col">Masks of</th>
              <th scope="col">Quality</th>
              <th scope="col">Compared</th>
              <th scope="col">Likeness</th>
              <th scope="col">Floor</th>
            </tr>
          </thead>
          <tbody>${rows.map((row) =>
            html`
              <tr key=${`${row.workflow} ${row.class} ${row.quality}`}>
                <th scope="row"><a href=${`/dashboard/workflows/${
                  encodeURIComponent(row.workflow)
                }`}><${Words} text=${row
                  .workflow} /></a></th>
                <td>
                  <${Words} text=${row.class} />
                </td>
                <td>${row.quality}</td>
                <td>${row.count}</td>
                <td>${row.floor !== null && row.mean < row.floor
                  ? html`<span class="badge is-warn">▲ ${row.mean.toFixed(3)}, computed with more care</span>`
                  : row.mean.toFixed(3)}</td>
                <td>${row.floor ?? "–"}</td>
              </tr>
            `
          )}</tbody>
        </table>
      </div>
    </section>
  `;
}
