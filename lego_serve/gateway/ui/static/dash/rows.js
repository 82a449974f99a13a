// Requests as rows: progress, age, what is left, where it is, and what may be done.
import { duration, short, tail } from "../app/format.js";
import { classes, html, useRef, useState } from "../app/lib.js";
import { inPlace } from "./merge.js";
import { serverNow } from "./store.js";

/** @type {Record<string, string>} */
const FLAGS = { resumed: "is-warn", late: "is-bad", paused: "", edit: "", adapters: "", controlnet: "" };

/**
 * How old a request is now, or was when it ended.
 * @param {any} row
 */
export function ageOf(row) {
  return row.state === "ended" ? row.age_s : Math.max(0, serverNow() - row.created);
}

/** @param {{row: any}} props */
export function Flags({ row }) {
  const failed = row.state === "ended" && row.outcome !== "ok";
  return html`${failed && html`<span class="badge is-bad">${row.outcome.replaceAll("_", " ")}</span>`}
    ${
    row.flags.map((/** @type {string} */ flag) =>
      html`<span key=${flag} class=${`badge ${FLAGS[flag] ?? ""}`}>${flag}</span>`
    )
  }`;
}

/** @param {{row: any}} props */
export function Progress({ row }) {
  const { steps, step, state } = row;
  const age = ageOf(row);
  const waited = age > 0 ? Math.min(0.3, row.waited_s / Math.max(age + (row.eta_s ?? 0), 0.001)) : 0;
  const share = steps > 0 ? step / steps : 0;
  const said = state === "ended"
    ? row.outcome === "ok" ? counted(steps) : `ended at step ${step}`
    : state === "waiting"
    ? "waiting for a place"
    : `step ${step} / ${steps}${state === "paused" ? ", paused" : ""}`;
  return html`
    <div class="row-progress">
      <span class="row-bar" role="img" aria-label=${said}>
        <span class="part is-waits" style=${{ width: `${(state === "waiting" ? 0.3 : waited) * 100}%` }}></span>
        <span class=${classes("part", row.outcome && row.outcome !== "ok" ? "is-bad" : "is-steps")} style=${{
          width: `${share * (1 - waited) * 100}%`,
        }}></span>
      </span>
      <span class="row-said">${said}</span>
    </div>
  `;
}

/** @param {number} steps */
function counted(steps) {
  return steps === 1 ? "1 step" : `${steps} steps`;
}

/** @param {any} row */
export function leftOf(row) {
  return ["running", "waiting"].includes(row.state) && row.eta_s !== null ? duration(row.eta_s) : "–";
}

const drawn = /** @type {WeakMap<HTMLElement, any>} */ (new WeakMap());

/**
 * The row that a link opens, as it is now.
 * @param {HTMLElement} link
 */
export function rowAt(link) {
  return drawn.get(link);
}

/**
 * Rows that keep their places while the pointer is over them: what ends stays, what is new comes after.
 * @param {any[]} rows
 * @param {Record<string, any>} [known] where rows that have left the list are found
 * @returns {[any[], {onPointerEnter: () => void, onPointerLeave: () => void}]}
 */
export function useStill(rows, known = {}) {
  const [isOver, setOver] = useState(false);
  const kept = useRef(/** @type {any[]} */ ([]));
  kept.current = isOver ? inPlace(kept.current, rows, known) : rows;
  return [kept.current, { onPointerEnter: () => setOver(true), onPointerLeave: () => setOver(false) }];
}

/** @param {string} id */
export function requestPath(id) {
  return `/dashboard/requests/${encodeURIComponent(id)}`;
}

/**
 * A row of the list: cells of one grid.
 * @param {{row: any, isActive?: boolean, onMenu: (row: any) => void, place?: number}} props
 */
export function RequestRow({ row, isActive = false, onMenu, place }) {
  return html`
    <div class=${classes(
      "request-row",
      isActive && "is-active",
      row.state === "ended" && "is-ended",
    )} role="row" aria-rowindex=${place}>
      <div role="cell" class="request-name">
        <span><a class="mono" href=${requestPath(row.id)} title=${row.id}
          ref=${(/** @type {HTMLElement | null} */ link) => link && drawn.set(link, row)}>${short(
            row.id,
          )}</a> <${Flags} row=${row} /></span>
        <span class="hint" title=${`${row.workflow} · ${row.tenant}`}>${row.workflow} · ${row.tenant}</span>
      </div>
      <div role="cell">
        <${Progress} row=${row} />
      </div>
      <div role="cell" class="figure-cell">${duration(ageOf(row))}</div>
      <div role="cell" class="figure-cell">${leftOf(row)}</div>
      <div role="cell" class="mono where" title=${row.replica ?? ""}>${tail(row.replica)}</div>
      <div
        role="cell"><button type="button" class="icon-button is-small" aria-label=${`Actions on ${
          short(row.id)
        }`} onClick=${() => onMenu(row)}>⋯</button></div>
    </div>
  `;
}

export function RowHead() {
  return html`
    <div class="request-row is-head" role="row">
      <div role="columnheader">Request</div>
      <div role="columnheader">Progress</div>
      <div role="columnheader" class="figure-cell">Age</div>
      <div role="columnheader" class="figure-cell">Left</div>
      <div role="columnheader">Where</div>
      <div role="columnheader"><span class="for-ears">Actions</span></div>
    </div>
  `;
}
