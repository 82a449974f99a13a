// The templates of all tenants: where they are kept, making them ready, and letting go of them.
import { ask, askJson } from "../app/api.js";
import { bytes, counted, tail } from "../app/format.js";
import { Words } from "../app/kit.js";
import { html, useEffect, useState } from "../app/lib.js";
import { asked } from "./actions.js";
import { askPages, Failure, useAnswer, useBeat } from "./asking.js";
import { mayAct } from "./store.js";

const ROOT = "/v1/admin/templates";
const MORE = 50;

/** @param {any} card */
function pathOf({ tenant, id }) {
  return `${ROOT}/${encodeURIComponent(tenant)}/${encodeURIComponent(id)}`;
}

/** @param {{isShown: boolean}} props */
export function Templates({ isShown }) {
  const [most, setMost] = useState(MORE);
  const [list, error, load] = useAnswer(`${ROOT}?tenant=`, `${most} ${useBeat(30)}`, (path) => askPages(path, most));
  if (!isShown) return null;
  if (!list) return html`<${Failure} error=${error} onRetry=${load} />`;
  return html`<section class="card" aria-labelledby="templates-title">
    <header><h2 id="templates-title">Templates</h2><span class="hint">${
    counted(list.total, "template")
  } of all tenants</span></header>
    ${
    list.total === 0
      ? html`
        <p
          class="empty">None is registered. In the <a href="/">playground</a>, open an image to edit and keep it as a template.</p>
      `
      : html`
        <${Failure} error=${error} onRetry=${load} />
        <${Table} rows=${list.data} onChange=${load} />
      `
  }
    ${
    list.data.length < list.total &&
    html`<p><button type="button" class="button is-small" onClick=${() => setMost(most + MORE)}>Show more</button></p>`
  }
  </section>`;
}

/** @param {{rows: any[], onChange: () => void}} props */
function Table({ rows, onChange }) {
  /** @param {any} card */
  const evict = (card) => (asked.value = {
    title: `Let go of ${card.name}?`,
    effect: `Replicas drop the ${
      bytes(keptOf(card))
    } that they keep of it, and its pin where it has one. It stays registered: the next edit of it is computed whole and keeps them again.`,
    verb: "Let go",
    isBad: true,
    act:
      async () => (await askJson(`${pathOf(card)}/activations`, { method: "DELETE" }),
        onChange(),
        `Replicas have let go of ${card.name}.`),
  });
  /** @param {any} card */
  const warm = (card) => (asked.value = {
    title: `Warm template ${card.name}?`,
    effect: `A replica computes what edits of it will read, ${
      bytes(card.bytes_predicted)
    }; that takes about as long as an image, and counts as work of ${card.tenant}.`,
    verb: "Warm",
    act:
      async () => (await askJson(`${pathOf(card)}/warm`, { method: "POST" }),
        setTimeout(onChange, 3000),
        `${card.name} is being warmed.`),
  });
  return html`
    <div class="table-room" tabindex="0" role="region" aria-label="Table of templates">
      <table class="plain">
        <thead>
          <tr>
            <th scope="col">Template</th>
            <th scope="col">Tenant</th>
            <th scope="col">Size</th>
            <th scope="col">Model</th>
            <th scope="col">Needs</th>
            <th scope="col">Kept in</th>
            <th scope="col"><span class="for-ears">Actions</span></th>
          </tr>
        </thead>
        <tbody>${rows.map((card) =>
          html`
            <tr key=${`${card.tenant} ${card.id}`}>
              <th
                scope="row"><span class="template-name"><${Thumb} card=${card} /> <span><${Words} text=${card
                  .name} />${card.pinned &&
                  html`
                    <span class="badge">pinned</span>
                  `}<small><${Words} text=${card.caption ?? ""} /></small></span></span></th>
              <td>
                <${Words} text=${card.tenant} />
              </td>
              <td>${card.width} × ${card.height}</td>
              <td>
                <${Words} text=${card.model} />
              </td>
              <td>${bytes(card.bytes_predicted)}${card.fits ? "" : ", more than fits"}</td>
              <td>${card.replicas.length === 0
                ? "no replica"
                : card.replicas.map((/** @type {any} */ each) =>
                  html`<div key=${each.id}><span class="mono">${tail(each.id)}</span> ${bytes(each.bytes)}</div>`
                )}</td>
              <td class="row-actions">${mayAct() && html`
                <button type="button" class="button is-small" onClick=${() => warm(card)}>Warm…</button>
                <button type="button" class="button is-small" disabled=${card.replicas.length === 0} onClick=${() =>
                  evict(card)}>Let go…</button>
              `}</td>
            </tr>
          `
        )}</tbody>
      </table>
    </div>
  `;
}

/** @param {any} card */
function keptOf({ replicas }) {
  return replicas.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each.bytes, 0);
}

/** @param {{card: any}} props */
function Thumb({ card }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    let made = "";
    ask(`${pathOf(card)}/image`).then((answer) => answer.blob()).then(
      (blob) => setUrl(made = URL.createObjectURL(blob)),
      () => {},
    );
    return () => URL.revokeObjectURL(made);
  }, [card.id]);
  return url ? html`<img class="thumb" src=${url} alt="" />` : html`<span class="thumb"></span>`;
}
