// The overview: how it goes, what runs where, what was decided.
import { askJson } from "../app/api.js";
import { bytes, duration, short } from "../app/format.js";
import { html, useRef } from "../app/lib.js";
import { menuOf } from "./actions.js";
import { useAnswer } from "./asking.js";
import { MemoryLegend, ModelRow } from "./bricks.js";
import { Chart, LATENCY_LINES, Spark } from "./charts.js";
import { DecisionList } from "./notices.js";
import { requestPath, RequestRow, RowHead, useStill } from "./rows.js";
import { go } from "./router.js";
import { modelsOf, serverNow, span } from "./store.js";
import { Waterfall } from "./waterfall.js";

const MOST_ROWS = 7;
const MOST_MODELS = 8; // with their bricks, the troubled ones first; all are on their own page

/** @param {{view: import("./store.js").View}} props */
export function Overview({ view }) {
  const { overview, series, replicas, requests, decisions } = view;
  const live = Object.values(requests).filter((row) => row.state !== "ended").sort((a, b) => a.created - b.created);
  const [oldest, stillness] = useStill(live.slice(0, MOST_ROWS), requests);
  const models = modelsOf(view);
  const first = models.slice(0, MOST_MODELS);
  const [whole, isKnown] = useSlowest(requests);
  return html`
    <${Tiles} overview=${overview} series=${series} />
    <div class="charts">
      <${Chart}
        title="Latency"
        series=${series}
        unit="s"
        lines=${LATENCY_LINES}
        target=${overview.target.median_s}
        sentence=${`Half of the requests took at most ${duration(overview.latency.p50)}, 95 of 100 at most ${
          duration(overview.latency.p95)
        }, in the last ${span.value / 60} minutes.`}
      />
      <${Chart}
        title="Requests a second"
        series=${series}
        unit=""
        stacked=${true}
        lines=${[
          { name: "refused", label: "refused", hue: "part-adapters", fill: true },
          { name: "failed", label: "failed", hue: "bad", fill: true },
          { name: "late", label: "late", hue: "part-prompts", fill: true },
          { name: "ok", label: "within target", hue: "accent", fill: true },
        ]}
        sentence=${`${overview.counts.ok} answered, ${overview.counts.late} of them late; ${overview.counts.failed} failed, ${overview.counts.refused} refused, in the last ${
          span.value / 60
        } minutes.`}
      />
    </div>
    <section class="card" aria-labelledby="models-title">
      <header><h2 id="models-title">Models</h2><span class="hint">a stud is an image in the step that runs</span><span class="spacer"></span><${StudLegend} /><${MemoryLegend} /></header>
      ${first.map((/** @type {any} */ model) =>
        html`<${ModelRow} key=${model.name} model=${model} replicas=${replicas} onOpen=${() =>
          go(`/dashboard/models/${encodeURIComponent(model.name)}`)} />`
      )}
      ${models.length > first.length &&
        html`<p class="empty"><a href="/dashboard/models">${models.length - first.length} more models</a></p>`}
    </section>
    <div class="two">
      <section class="card is-flush" aria-labelledby="flight-title">
        <header><h2 id="flight-title">In flight</h2><span class="badge is-accent">${overview.counts
          .in_flight}</span><span class="hint">${live.length > MOST_ROWS
          ? `${MOST_ROWS} oldest`
          : ""}</span><span class="spacer"></span><a href="/dashboard/requests">All requests</a></header>
        ${oldest.length === 0
          ? html`<p class="empty">Nothing runs now. <a href="/">Make an image in the playground.</a></p>`
          : html`<div class="request-table" role="table" aria-label="Requests in flight" ...${stillness}><${RowHead} />${
            oldest.slice(0, MOST_ROWS).map((row) =>
              html`<${RequestRow} key=${row.id} row=${row} onMenu=${() => (menuOf.value = row)} />`
            )
          }</div>`}
      </section>
      <section class="card" aria-labelledby="decisions-title">
        <header><h2 id="decisions-title">Decisions</h2><span class="spacer"></span><a href="/dashboard/decisions">All</a></header>
        <${DecisionList} decisions=${Object.values(decisions).sort((a, b) => b.at - a.at).slice(0, 6)} />
      </section>
    </div>
    ${whole && html`<${Slowest} whole=${whole} />`}
    ${isKnown && html`<${CacheStrip} overview=${overview} />`}
  `;
}

function StudLegend() {
  return html`
    <ul class="legend">
      <li><span class="stud is-on"></span>runs</li>
      <li><span class="stud is-waiting"></span>waits</li>
      <li><span class="stud"></span>room</li>
    </ul>
  `;
}

/** @param {{overview: any, series: any}} props */
function Tiles({ overview, series }) {
  const { counts, target, rates, latency, work } = overview;
  const points = series.series;
  const within = points.ok.map((/** @type {number} */ ok, /** @type {number} */ at) => {
    const all = ok + points.late[at] + points.failed[at];
    return all > 0 ? ok / all : null;
  });
  const saved = work.full > 0 ? 1 - work.computed / work.full : null;
  return html`
    <div class="tiles">
      <${Tile} name="Within target" value=${target.within === null
        ? "–"
        : (target.within * 100).toFixed(1)} unit=${target.within === null ? "" : "%"} more=${`goal ${
        Math.round(target.goal * 100)
      } % of requests`}>
        <${Spark} points=${within} hue="ok" goal=${target.goal} />
        <//>
        <${Tile} name="Goodput" value=${rates.good_images_s.toFixed(
          rates.good_images_s < 10 ? 2 : 0,
        )} unit="images/s" more=${`of ${rates.images_s.toFixed(2)} answered`}>
          <${Spark} points=${points.images} />
          <//>
          <${Tile} name="Latency, p95" value=${duration(latency.p95).split(
            " ",
          )[0]} unit=${duration(latency.p95).split(" ")[1] ?? ""} more=${`p50 ${duration(latency.p50)} · p99 ${
            duration(latency.p99)
          }`}>
            <${Spark} points=${points.p95} />
            <//>
            <${Tile} name="Waiting" value=${counts.waiting} unit=${counts.waiting === 1
              ? "request"
              : "requests"} more=${counts.waiting > 0
              ? `oldest ${duration(counts.oldest_wait_s)}`
              : `${counts.running} running${counts.paused ? `, ${counts.paused} paused` : ""}`}>
              <${Spark} points=${points.waiting} hue="part-adapters" />
              <//>
              <${Tile} name="Work saved" value=${saved === null ? "–" : Math.round(saved * 100)} unit=${saved === null
                ? ""
                : "%"} more="of what all steps cost">
                <${Spark} points=${points.saved} hue="part-control" />
                <//>
                </div>
  `;
}

/** @param {{name: string, value: any, unit: string, more: string, children?: any}} props */
function Tile({ name, value, unit, more, children }) {
  return html`<section class="card tile">
    <h2>${name}</h2>
    <p class="tile-value"><strong>${value}</strong> <span>${unit}</span></p>
    <p class="hint">${more}</p>
    ${children}
  </section>`;
}

/**
 * The slowest request lately, whole: the last one until the next has come. And whether it is known if there is one,
 * before which nothing is drawn below its place.
 * @param {Record<string, any>} requests
 * @returns {[any, boolean]}
 */
function useSlowest(requests) {
  const ended = Object.values(requests).filter((row) => row.state === "ended" && serverNow() - row.created < 600);
  const slowest = ended.reduce(
    (most, row) => (!most || row.age_s > most.age_s ? row : most),
    /** @type {any} */ (null),
  );
  const id = slowest?.id ?? "";
  const [found, error] = useAnswer(`/v1/admin/requests/${encodeURIComponent(id)}`, "", id ? askJson : noAnswer);
  const isKnown = useRef(false);
  isKnown.current ||= !id || found !== null || error !== null;
  return [id ? found : null, isKnown.current];
}

const noAnswer = () => Promise.resolve(null);

/** @param {{whole: any}} props */
function Slowest({ whole }) {
  const { id } = whole;
  const isLate = whole.target_s !== null && whole.total_s > whole.target_s;
  return html`
    <section class="card" aria-labelledby="slowest-title">
      <header><h2 id="slowest-title">Slowest lately: <a class="mono" href=${requestPath(id)}>${short(id)}</a></h2>
          ${isLate &&
            html`<span class="badge is-warn">▲ ${duration(whole.total_s)}, target ${duration(whole.target_s)}</span>`}
          <span class="spacer"></span><a class="button is-small" href=${requestPath(id)}>Open</a></header>
      <${Waterfall} request=${whole} />
    </section>
  `;
}

/** @type {[string, string, string][]} */
const STRIP = [["prompts", "Prompts", "found encoded"], ["adapters", "Adapters", "at hand"]];

/** @param {{overview: any}} props */
function CacheStrip({ overview: { caches, templates } }) {
  const of = (/** @type {string} */ kind) => caches.find((/** @type {any} */ each) => each.kind === kind);
  const [kept, edits] = [of("templates"), of("edits")];
  if (caches.length === 0) return null;
  return html`<section class="card strip" aria-label="Caches">
    ${
    STRIP.filter(([kind]) => of(kind)).map(([kind, name, found]) => {
      const { hits, misses, ...row } = of(kind);
      const asked = hits + misses;
      return html`<${Kept} key=${kind} name=${name} figure=${
        asked > 0 ? Math.round((100 * hits) / asked) : null
      } unit=${asked > 0 ? `% ${found}` : "not asked for yet"} row=${row} />`;
    })
  }
    ${
    kept &&
    html`<${Kept} name="Templates" figure=${templates.registered} unit=${`registered${
      templates.pinned > 0 ? `, ${templates.pinned} pinned` : ""
    }`} row=${kept} />`
  }
    <div>
      <h2><a href="/dashboard/caches">Edits compared</a></h2>
      <p class="tile-value"><strong>${edits ? edits.mean.toFixed(3) : "–"}</strong> <span>${
    edits ? `likeness${edits.floor === null ? "" : `, floor ${edits.floor}`}` : "none yet"
  }</span></p>
      <${Bar} share=${edits ? edits.mean : 0} />
      <p class="hint">${
    edits
      ? `${edits.count} compared with their whole computation`
      : "Some edits are computed in full to see how alike they are."
  }</p>
    </div>
  </section>`;
}

/** @param {{name: string, figure: number | null, unit: string, row: any}} props */
function Kept({ name, figure, unit, row: { used, budget, evicted } }) {
  return html`
    <div>
      <h2><a href="/dashboard/caches">${name}</a></h2>
      <p class="tile-value"><strong>${figure ?? "–"}</strong> <span>${unit}</span></p>
      <${Bar} share=${budget > 0 ? used / budget : 0} />
      <p class="hint">${bytes(used)} of ${bytes(budget)}${evicted > 0 ? ` · ${evicted} evicted` : ""}</p>
    </div>
  `;
}

/** @param {{share: number}} props */
function Bar({ share }) {
  return html`<span class="brick-bar is-wide"><span class="part is-control" style=${{
    width: `${Math.min(100, 100 * share)}%`,
  }}></span></span>`;
}
