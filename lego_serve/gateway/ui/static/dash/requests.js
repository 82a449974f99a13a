// The list of requests, filtered by the address and windowed; and one request whole.
import { ApiError, key } from "../app/api.js";
import { counted, duration, short } from "../app/format.js";
import { Icon } from "../app/icons.js";
import { copy, Words } from "../app/kit.js";
import { html, useEffect, useRef, useState } from "../app/lib.js";
import { askPages, Failure, useAnswer, useBeat } from "./asking.js";
import { asked, cancelAction, menuOf, pauseAction } from "./actions.js";
import { curlOf } from "./curl.js";
import { filtersOf } from "./filters.js";
import { ageOf, Flags, Progress, RequestRow, RowHead, useStill } from "./rows.js";
import { go, route, withQuery } from "./router.js";
import { mayAct, modelsOf } from "./store.js";
import { Waterfall } from "./waterfall.js";

const isNarrow = matchMedia("(max-width: 720px)");
const NONE = {};
const AROUND = 6; // rows drawn above and below those that are seen
const PAGE = 200;
/** @type {Record<string, string>} */
const TARGETS = { slo: ", its workflow's slo_s", learned: ", five times what it takes alone" };

/** @param {{view: import("./store.js").View | null}} props */
export function Requests({ view }) {
  return route.value.name
    ? html`<${One} id=${route.value.name} key=${route.value.name} />`
    : html`<${List} view=${view} />`;
}

/** @param {{view: import("./store.js").View | null}} props */
function List({ view }) {
  const [most, setMost] = useState(PAGE);
  const { text, complaint } = filtersOf(route.value.query);
  const [found, error, again] = useAnswer(
    `/v1/admin/requests?${text}`,
    `${most} ${useBeat(2)}`,
    (path) => complaint ? Promise.reject(new ApiError(complaint)) : askPages(path, most),
  );
  return html`<section class="card is-flush" aria-label="Requests">
    <${FilterBar} view=${view} rows=${found?.data ?? []} />
    <${Failure} error=${error} onRetry=${again} />
    ${
    !found
      ? !error && html`<div class="shape is-tall"></div>`
      : found.total === 0
      ? html`<p class="empty">${
        text
          ? html`No request is like that. <a href="/dashboard/requests">Show all.</a>`
          : html`No request yet. <a href="/">Make one in the playground.</a>`
      }</p>`
      : html`<${Windowed} key=${text} rows=${found.data} known=${view?.requests ?? NONE} total=${found.total} onMore=${(
        /** @type {number} */ last,
      ) => setMost(Math.ceil(last / PAGE) * PAGE)} />`
  }
  </section>`;
}

/** @param {{view: import("./store.js").View | null, rows: any[]}} props */
function FilterBar({ view, rows }) {
  const query = route.value.query;
  const set = (/** @type {string} */ name) => (/** @type {any} */ event) =>
    go(withQuery({ [name]: event.target.value }), { replace: true });
  const workflows = [
    ...new Set([
      ...(view ? modelsOf(view) : []).flatMap((/** @type {any} */ model) => model.workflows),
      ...rows.map((row) => row.workflow),
    ]),
  ].sort();
  const outcomes = [...new Set(["ok", ...rows.map((row) => row.outcome).filter(Boolean), query.get("outcome") ?? ""])]
    .filter(Boolean).sort();
  const tenants = [...new Set([...rows.map((row) => row.tenant), query.get("tenant") ?? ""])].filter(Boolean).sort();
  const isFiltered = filtersOf(query).text !== "";
  const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string[]} */ values) =>
    html`<label class="filter"><span>${label}</span><select value=${query.get(name) ?? ""} onChange=${set(name)}>
      <option value="">any</option>${
      values.map((value) =>
        html`<option key=${value} value=${value}>${name === "outcome" ? value.replaceAll("_", " ") : value}</option>`
      )
    }
    </select></label>`;
  return html`<div class="filters" role="search" aria-label="Filter requests">
    <label class="filter is-wide"><span>Words</span><input type="search" value=${
    query.get("q") ?? ""
  } placeholder="id, workflow, tenant, late…" onInput=${set("q")} /></label>
    ${choice("state", "State", ["waiting", "running", "paused", "ended"])}
    ${choice("workflow", "Workflow", workflows)}
    ${choice("outcome", "Outcome", outcomes)}
    ${tenants.length > 1 && choice("tenant", "Tenant", tenants)}
    <label class="filter"><span>Longer than</span><select value=${query.get("over_s") ?? ""} onChange=${set("over_s")}>
      <option value="">any</option>${
    [1, 5, 10, 60].map((seconds) => html`<option key=${seconds} value=${seconds}>${seconds} s</option>`)
  }</select></label>
    <label class="filter"><span>Order</span><select value=${query.get("sort") ?? ""} onChange=${set("sort")}>
      <option value="">in flight first</option><option value="-age_s">longest first</option><option value="-waited_s">most waited first</option><option value="-created">newest first</option></select></label>
    ${isFiltered && html`<a class="button is-small" href="/dashboard/requests">Clear</a>`}
  </div>`;
}

/** As in the style; a window that is made narrower calls for the list anew, since its height changes. */
function rowHeight() {
  return isNarrow.matches ? 96 : 57;
}

/**
 * A table of which only the rows that are seen exist.
 * @param {{rows: any[], known: Record<string, any>, total: number, onMore: (last: number) => void}} props
 */
function Windowed({ rows, known, total, onMore }) {
  const [still, stillness] = useStill(rows.map((row) => known[row.id] ?? row), known); // the stream knows steps sooner
  const ROW = rowHeight();
  const all = total + still.length - rows.length;
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(800);
  useEffect(() => {
    const element = /** @type {HTMLElement} */ (box.current);
    const observer = new ResizeObserver(() => setHeight(element.clientHeight));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top / ROW) - AROUND);
  const last = Math.min(all, Math.ceil((top + height) / ROW) + AROUND);
  useEffect(() => {
    if (last > rows.length) onMore(last);
  }, [last, rows.length, total]);
  return html`
    <div class="request-table" role="table" aria-label="Requests" aria-rowcount=${all} ...${stillness}>
      <${RowHead} />
      <div class="windowed" ref=${box} tabindex="0" role="rowgroup" aria-label="Rows" onScroll=${(
        /** @type {any} */ event,
      ) => setTop(event.target.scrollTop)}>
        <div class="windowed-all" role="presentation" style=${{ height: `${all * ROW}px` }}>
          <div class="windowed-seen" role="presentation" style=${{ transform: `translateY(${first * ROW}px)` }}>
              ${still.slice(first, last).map((row, index) =>
                html`<${RequestRow} key=${row.id} row=${row} place=${
                  first + index + 2
                } onMenu=${() => (menuOf.value = row)} />`
              )}
            </div>
        </div>
      </div>
      <p class="table-foot hint">${counted(total, "request")}</p>
    </div>
  `;
}

/** @param {{id: string}} props */
function One({ id }) {
  const hasEnded = useRef(false);
  const beat = useBeat(1);
  const [request, error, again] = useAnswer(`/v1/admin/requests/${encodeURIComponent(id)}`, !hasEnded.current && beat);
  const isLive = request?.state !== "ended";
  hasEnded.current = !isLive;
  const failure = html`<${Failure} error=${error} onRetry=${again} />`;
  if (!request) {
    return error?.status === 404
      ? html`
        <section class="card empty-state"><h2>${error.message}</h2>
          <p class="hint">${error.code} · the last 2,000 requests of each gateway are kept</p>
          <a class="button" href="/dashboard/requests">All requests</a></section>
      `
      : error
      ? failure
      : html`<div key="shape" class="card shape is-tall"></div>`; // or it would become what comes, and move
  }
  const rows = Object.entries(request.inputs).filter(([name]) => !["width", "height"].includes(name));
  return html`
    ${failure}
    <section class="card" aria-labelledby="request-title">
      <header><h2 id="request-title" class="mono">${short(id)}</h2><${Flags} row=${request} />
        <span class="badge ${request.state === "ended"
          ? (request.outcome === "ok" ? "is-ok" : "is-bad")
          : "is-accent"}">${request.state === "ended"
          ? (request.outcome === "ok" ? "✓ answered" : "✕ ended")
          : request.state}</span>
        <span class="spacer"></span>
        ${isLive && mayAct() && html`
          <button type="button" class="button is-small" onClick=${() => (asked.value = pauseAction(
            request,
          ))}>${request.state === "paused" ? "Resume…" : "Pause…"}</button>
          <button type="button" class="button is-small is-stop" onClick=${() => (asked.value = cancelAction(
            request,
          ))}>Cancel…</button>
        `}
        <button type="button" class="button is-small" onClick=${() =>
          copy(
            curlOf(request, location.origin, key.value !== ""),
            "The request, with a prompt to put in, was",
          )}><${Icon} name="copy" size="16" /> curl</button>
        <button type="button" class="button is-small" onClick=${() => copy(id, "The id was")}>Copy id</button></header>
      ${isLive &&
        html`<div class="one-progress"><${Progress} row=${request} /><span class="hint">${duration(ageOf(request))}${
          request.eta_s !== null ? `, about ${duration(request.eta_s)} left` : ""
        }</span></div>`}
      ${request.message && html`
        <p class="failure">
          <${Words} text=${request.message} />
        </p>
      `}
      <${Waterfall} request=${request} />
    </section>
    <div class="two is-even">
      <section class="card" aria-labelledby="facts-title">
        <header>
          <h2 id="facts-title">What was asked for</h2>
        </header>
        <dl class="facts">
          <dt>workflow</dt><dd><a href=${`/dashboard/workflows/${
            encodeURIComponent(request.workflow)
          }`}><${Words} text=${request
            .workflow} /></a></dd>
          <dt>tenant</dt><dd><${Words} text=${request.tenant} /></dd>
          <dt>size</dt><dd>${request.size.replace("x", " × ")}</dd>
          ${rows.map(([name, value]) =>
            html`
              <dt key=${name}>${name.replaceAll("_", " ")}</dt>
              <dd>
                <${Words} text=${String(value)} />
              </dd>
            `
          )}
          ${request.addons.map((/** @type {any} */ each) =>
            html`
              <dt key=${each.name}>${each.field === "lora" ? "adapter" : "ControlNet"}</dt>
              <dd>
                <${Words} text=${each.name} />
              </dd>
            `
          )}
          ${request.reuse && html`
            <dt>computed</dt>
            <dd>${`${
              Math.round(request.reuse.share * 100)
            } % of the rows in ${request.reuse.masked_steps} of ${request.reuse.steps} steps`}</dd>
          `}
          ${request.deadline_s !== null && html`
            <dt>deadline</dt>
            <dd>${duration(request.deadline_s)}</dd>
          `}
          ${request.target_s !== null && html`
            <dt>target</dt>
            <dd>${duration(request.target_s)}${TARGETS[request.target_by] ?? ""}</dd>
          `}
          <dt>waited</dt><dd>${duration(request.waited_s)}</dd>
        </dl>
        <p class="hint">Prompts and images are not kept.</p>
      </section>
      <section class="card" aria-labelledby="story-title">
        <header>
          <h2 id="story-title">What happened</h2>
        </header>
        <ol class="story">${request.story.map((
          /** @type {[number, string]} */ [at, words],
          /** @type {number} */ index,
        ) => html`<li key=${index}><span class="mono">${duration(at)}</span><${Words} text=${words} /></li>`)}</ol>
      </section>
    </div>
  `;
}
