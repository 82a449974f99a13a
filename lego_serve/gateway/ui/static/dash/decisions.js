// What changed the course of things, and the errors that requests ended with.
import { age, short } from "../app/format.js";
import { Words } from "../app/kit.js";
import { html } from "../app/lib.js";
import { Failure, useAnswer, useBeat } from "./asking.js";
import { DecisionList } from "./notices.js";
import { requestPath } from "./rows.js";
import { go, route, withQuery } from "./router.js";
import { serverNow } from "./store.js";

const KINDS = [
  "scale",
  "pin",
  "lost",
  "up",
  "drain",
  "refuse",
  "evict",
  "warm",
  "cancel",
  "pause",
  "resume",
  "load",
  "steal",
  "quarantine",
  "dispatcher",
];

export function Decisions() {
  const kind = route.value.query.get("kind") ?? "";
  const beat = useBeat(3);
  const [list, problem, again] = useAnswer(`/v1/admin/decisions?kind=${encodeURIComponent(kind)}`, beat);
  const [errors, unknown, askErrors] = useAnswer("/v1/admin/errors", beat);
  return html`
    <div class="two is-even">
      <section class="card" aria-labelledby="decided-title">
          <header><h2 id="decided-title">Decisions</h2><span class="spacer"></span>
            <label class="filter"><span>Kind</span><select value=${kind} onChange=${(/** @type {any} */ event) =>
              go(withQuery({ kind: event.target.value }), { replace: true })}>
              <option value="">any</option>${KINDS.map((each) =>
                html`<option key=${each} value=${each}>${each}</option>`
              )}</select></label></header>
          <${Failure} error=${problem} onRetry=${again} />
          ${list
            ? html`<${DecisionList} decisions=${list.data} empty=${kind ? "Nothing of this kind." : undefined} />`
            : problem
            ? ""
            : html`<div class="shape is-tall"></div>`}
        </section>
      ${(list || problem) && html`<section class="card" aria-labelledby="errors-title">
          <header><h2 id="errors-title">Errors</h2></header>
          <${Failure} error=${unknown} onRetry=${askErrors} />
          ${
        !errors
          ? ""
          : errors.data.length === 0
          ? html`<p class="empty">No request has ended with an error since the gateways started.</p>`
          : html`
            <div class="table-room" tabindex="0" role="region" aria-label="Table of errors">
              <table class="plain">
                <thead>
                  <tr>
                    <th scope="col">Code</th>
                    <th scope="col">Node</th>
                    <th scope="col">Times</th>
                    <th scope="col">Last</th>
                    <th scope="col">Request</th>
                  </tr>
                </thead>
                <tbody>${errors.data.map((/** @type {any} */ each) =>
                  html`
                    <tr key=${`${each.code} ${each.node}`}>
                      <th
                        scope="row"><span class="mono"><${Words} text=${each
                          .code} /></span><small><${Words} text=${each.said} /></small></th>
                      <td>
                        <${Words} text=${each.node || "–"} />
                      </td>
                      <td>${each.count}</td>
                      <td>${age(serverNow() - each.last)} ago</td>
                      <td>${each.job
                        ? html`<a class="mono" href=${requestPath(each.job)}>${short(each.job)}</a>`
                        : "–"}</td>
                    </tr>
                  `
                )}</tbody>
              </table>
            </div>
          `
      }
        </section>`}
    </div>
  `;
}
