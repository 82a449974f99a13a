// What is kept in memory: prompts, adapters, templates; and the templates themselves.
import { ask, askJson, said, sendJson } from "../app/api.js";
import { bytes, counted, percent, tail } from "../app/format.js";
import { html, useEffect, useState } from "../app/lib.js";
import { asked } from "./actions.js";
import { mayAct, tick } from "./store.js";

/** @type {Record<string, string>} */
const SAYS = {
  prompts: "Encoded prompts; one that is found is not encoded again.",
  adapters: "Adapters (LoRA) in replicas and in the LoRA node.",
  templates: "Activations that masked edits read instead of computing them.",
  pictures: "Encoded pictures of edits.",
  controlnets: "ControlNets in memory.",
};

export function Caches() {
  const [caches, setCaches] = useState(/** @type {any[] | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const beat = Math.floor(tick.value / 3);
  useEffect(() => void askJson("/v1/admin/caches").then(({ data }) => (setCaches(data), setError(null)), setError), [
    beat,
  ]);
  return html`
    ${error && html`<p class="card failure">${said(error)}</p>`}
    ${!caches && !error && html`<div class="card shape is-tall"></div>`}
    ${caches?.length === 0 && html`<p class="card empty">No replica keeps anything yet.</p>`}
    <div class="cache-cards">${(caches ?? []).map((row) =>
      html`<${Card} key=${`${row.kind} ${row.model}`} row=${row} />`
    )}</div>
    <${AdapterTable} />
    <${Templates} />
  `;
}

/** @param {{row: any}} props */
function Card({ row }) {
  const { hits, misses, used, budget, replicas } = row;
  const share = hits + misses > 0 ? hits / (hits + misses) : null;
  return html`<section class="card" aria-label=${`${row.kind} of ${row.model}`}>
    <header><h2>${row.kind[0].toUpperCase()}${row.kind.slice(1)}</h2><span class="hint">${row.model}</span></header>
    <p class="hint">${SAYS[row.kind] ?? ""}</p>
    <p class="tile-value"><strong>${share === null ? "–" : (share * 100).toFixed(0)}</strong> <span>${
    share === null ? "not asked for yet" : `% found, ${hits} of ${hits + misses}`
  }</span></p>
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
  </section>`;
}

function AdapterTable() {
  const [list, setList] = useState(/** @type {any} */ (null));
  const [word, setWord] = useState("");
  useEffect(() => void askJson("/v1/admin/adapters").then(setList, () => setList({ data: [], passed_over: [] })), []);
  if (!list || list.data.length + list.passed_over.length === 0) return null;
  const found = list.data.filter((/** @type {any} */ { id }) => id.includes(word.toLowerCase()));
  return html`<section class="card" aria-labelledby="adapters-title">
    <header><h2 id="adapters-title">Adapters</h2><span class="hint">${
    counted(list.data.length, "adapter")
  }</span><span class="spacer"></span>
      <label class="filter"><span class="for-ears">Find an adapter</span><input type="search" placeholder="Find an adapter" value=${word} onInput=${(
    /** @type {any} */ event,
  ) => setWord(event.target.value)} /></label></header>
    <div class="table-room" tabindex="0" role="region" aria-label="Table"><table class="plain"><thead><tr><th scope="col">Name</th><th scope="col">Model</th><th scope="col">Rank</th><th scope="col">Size</th><th scope="col">At hand in</th></tr></thead>
      <tbody>${
    found.slice(0, 100).map((/** @type {any} */ each) =>
      html`
        <tr key=${each.id}>
          <th scope="row">${each.id}</th>
          <td>${each.model}</td>
          <td>${each.rank ?? "–"}</td>
          <td>${bytes(each.bytes)}</td>
          <td>${each.resident === null || each.resident === undefined
            ? "not known"
            : each.resident.length === 0
            ? "none"
            : each.resident.join(", ")}</td>
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

function Templates() {
  const [list, setList] = useState(/** @type {any[] | null} */ (null));
  const load = () => void askJson("/v1/templates").then(({ data }) => setList(data), () => setList([]));
  useEffect(load, []);
  if (!list) return null;
  /** @param {any} card */
  const forget = (card) => (asked.value = {
    title: `Remove template ${card.name}?`,
    effect: "Its image is forgotten, and all that replicas keep of it. Edits that name it are refused from then on.",
    verb: "Remove",
    isBad: true,
    act:
      async () => (await askJson(`/v1/templates/${card.id}`, { method: "DELETE" }), load(), `${card.name} is removed.`),
  });
  /** @param {any} card */
  const warm = (card) => (asked.value = {
    title: `Warm template ${card.name}?`,
    effect: `Replicas compute what edits of it will read, ${
      bytes(card.bytes_predicted)
    }; that takes about as long as an image.`,
    verb: "Warm",
    act: async () => (await sendJson(`/v1/templates/${card.id}/warm`, {}), `${card.name} is being warmed.`),
  });
  return html`<section class="card" aria-labelledby="templates-title">
    <header><h2 id="templates-title">Templates</h2><span class="hint">of your tenant</span></header>
    ${
    list.length === 0
      ? html`<p class="empty">None is registered. In the playground, open a picture to edit and keep it as a template.</p>`
      : html`
        <div class="table-room" tabindex="0" role="region" aria-label="Table">
          <table class="plain">
            <thead>
              <tr>
                <th scope="col">Template</th>
                <th scope="col">Size</th>
                <th scope="col">Model</th>
                <th scope="col">Keeps</th>
                <th scope="col">Pinned</th>
                <th scope="col"><span class="for-ears">Actions</span></th>
              </tr>
            </thead>
            <tbody>${list.map((card) =>
              html`
                <tr key=${card.id}>
                  <th scope="row"
                    class="template-name"><${Thumb} id=${card.id} /> <span>${card.name}<small>${card.caption ??
                      ""}</small></span></th>
                  <td>${card.width} × ${card.height}</td>
                  <td>${card.model}</td>
                  <td>${bytes(card.bytes_predicted)}${card.fits ? "" : ", more than fits"}</td>
                  <td>${card.pinned ? "yes" : "no"}</td>
                  <td>${mayAct() && html`
                    <button type="button" class="button is-small" onClick=${() =>
                      warm(card)}>Warm…</button> <button type="button"
                      class="button is-small is-stop" onClick=${() => forget(card)}>Remove…</button>
                  `}</td>
                </tr>
              `
            )}</tbody>
          </table>
        </div>
      `
  }
  </section>`;
}

/** @param {{id: string}} props */
function Thumb({ id }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    let made = "";
    ask(`/v1/templates/${id}/image`).then((answer) => answer.blob()).then(
      (blob) => setUrl(made = URL.createObjectURL(blob)),
      () => {},
    );
    return () => URL.revokeObjectURL(made);
  }, [id]);
  return url ? html`<img class="thumb" src=${url} alt="" />` : html`<span class="thumb"></span>`;
}
