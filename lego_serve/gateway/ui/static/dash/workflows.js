// Workflows as graphs: the longest way to a node gives its column.
import { bytes, duration } from "../app/format.js";
import { Words } from "../app/kit.js";
import { html } from "../app/lib.js";
import { Failure, useAnswer, useBeat } from "./asking.js";
import { columnsOf } from "./layers.js";
import { modelsOf } from "./store.js";

const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [152, 56, 112, 30];
/** @type {Record<string, string>} */
const HUES = { text_encoder: "prompts", backbone: "steps", vae: "decode", adapters: "adapters", lora: "adapters" };

/** @param {{view: import("./store.js").View, name: string}} props */
export function Workflows({ view, name }) {
  const names = [...new Set(modelsOf(view).flatMap((/** @type {any} */ model) => model.workflows))].sort();
  if (!name) {
    const rows = Object.values(view.requests);
    return html`
      <section class="card is-flush" aria-label="Workflows">
        <div class="table-room" tabindex="0" role="region" aria-label="Table of workflows">
          <table class="plain">
            <thead>
              <tr>
                <th scope="col">Workflow</th>
                <th scope="col">Models</th>
                <th scope="col">In flight</th>
                <th scope="col">Lately</th>
              </tr>
            </thead>
            <tbody>${names.map((/** @type {string} */ each) => {
              const own = rows.filter((row) => row.workflow === each);
              const models = modelsOf(view).filter((/** @type {any} */ model) => model.workflows.includes(each));
              return html`
                <tr key=${each}>
                  <th scope="row"><a href=${`/dashboard/workflows/${
                    encodeURIComponent(each)
                  }`}><${Words} text=${each} /></a></th>
                  <td>
                    <${Words} text=${models.map((/** @type {any} */ model) => model.name).join(", ")} />
                  </td>
                  <td>${own.filter((row) => row.state !== "ended").length}</td>
                  <td><a href=${`/dashboard/requests?workflow=${encodeURIComponent(each)}`}>${own
                    .length} requests</a></td>
                </tr>
              `;
            })}</tbody>
          </table>
        </div>
      </section>
    `;
  }
  return html`<${One} name=${name} key=${name} />`;
}

/** @param {{name: string}} props */
function One({ name }) {
  const [flow, error, again] = useAnswer(`/v1/admin/workflows/${encodeURIComponent(name)}`, useBeat(5));
  const failure = html`<${Failure} error=${error} onRetry=${again} />`;
  if (!flow) return error ? failure : html`<div class="card shape is-tall"></div>`;
  return html`
    ${failure}
    <section class="card" aria-labelledby="flow-title">
      <header><h2 id="flow-title" class="words">${flow.name}</h2><span class="hint">version ${flow
        .version} · <span class="mono">${flow.hash.slice(0, 12)}</span></span></header>
      <div class="graph-room" tabindex="0" role="region" aria-label="Graph">
        <${Graph} flow=${flow} />
      </div>
      <p class="hint">On a node the median seconds of its last runs; on an edge what goes along it, and how long the call
        that takes it was on the way, there and back.</p>
      <p class="target-line"><strong>Target</strong> ${targetOf(flow.target)}</p>
    </section>
    <section class="card" aria-labelledby="nodes-title">
      <header>
        <h2 id="nodes-title">The same as a list</h2>
      </header>
      <div class="table-room" tabindex="0" role="region" aria-label="Table of nodes">
        <table class="plain">
          <thead>
            <tr>
              <th scope="col">Node</th>
              <th scope="col">Kind</th>
              <th scope="col">Model</th>
              <th scope="col">After</th>
              <th scope="col">Median</th>
              <th scope="col">95 of 100</th>
              <th scope="col">Waits</th>
              <th scope="col">Makes</th>
              <th scope="col">Runs</th>
            </tr>
          </thead>
          <tbody>${flow.nodes.map((/** @type {any} */ node) => {
            const times = flow.times[node.name] ?? {};
            const before = flow.edges.filter((/** @type {any} */ edge) => edge.to === node.name).map((
              /** @type {any} */ edge,
            ) => edge.from);
            const made = flow.edges.find((/** @type {any} */ edge) => edge.from === node.name)?.bytes;
            return html`
              <tr key=${node.name}>
                <th scope="row">
                  <${Words} text=${node.name} />
                </th>
                <td>${node.kind.replaceAll("_", " ")}</td>
                <td><a href=${`/dashboard/models/${encodeURIComponent(node.model)}`}><${Words} text=${node
                  .model} /></a></td>
                <td>
                  <${Words} text=${[...new Set(before)].join(", ") || "–"} />
                </td>
                <td>${duration(times.p50_s)}</td>
                <td>${duration(times.p95_s)}</td>
                <td>${duration(times.waited_p50_s)}</td>
                <td>${bytes(made)}</td>
                <td>${times.count ?? 0}</td>
              </tr>
            `;
          })}</tbody>
        </table>
      </div>
    </section>
  `;
}

/** @param {{slo_s: number | null, factor: number}} target */
function targetOf({ slo_s: slo, factor }) {
  return slo === null
    ? `None is set (slo_s): a request is on time within ${factor} times what the quickest tenth of like requests took.`
    : `${duration(slo)}, as its slo_s says; a request's own deadline_ms comes first.`;
}

/** @param {any} edge */
function costOf({ bytes: size, p50_s: onTheWay }) {
  return size === null ? "" : `${bytes(size)} · ${duration(onTheWay)}`;
}

/** @param {{flow: any}} props */
function Graph({ flow }) {
  const columns = columnsOf(flow.nodes.map((/** @type {any} */ node) => node.name), flow.edges);
  const most = Math.max(...columns.map((column) => column.length));
  const height = most * (HEIGHT + GAP_Y);
  const places = /** @type {Map<string, [number, number]>} */ (new Map());
  columns.forEach((column, x) =>
    column.forEach((name, y) => {
      const top = (height - column.length * (HEIGHT + GAP_Y)) / 2;
      places.set(name, [x * (WIDTH + GAP_X), top + y * (HEIGHT + GAP_Y) + GAP_Y / 2]);
    })
  );
  const width = columns.length * (WIDTH + GAP_X) - GAP_X;
  const at = (/** @type {string} */ name) => places.get(name) ?? [0, 0];
  return html`<svg class="graph" width=${width + 2} height=${height} viewBox=${`-1 0 ${
    width + 2
  } ${height}`} role="img" aria-label=${`${flow.nodes.length} nodes in ${columns.length} columns; the list below says the same`}>
    ${
    flow.edges.map((/** @type {any} */ edge) => {
      const [x0, y0] = at(edge.from);
      const [x1, y1] = at(edge.to);
      const [fromX, fromY, toX, toY] = [x0 + WIDTH, y0 + HEIGHT / 2, x1, y1 + HEIGHT / 2];
      const bend = (toX - fromX) / 2;
      const isFar = toX - fromX > GAP_X + 1; // it goes around what lies between
      const around = fromY + toY > height ? height - 4 : 4;
      const path = isFar
        ? `M${fromX} ${fromY}C${fromX + 70} ${fromY} ${fromX + 20} ${around} ${fromX + 110} ${around}L${
          toX - 110
        } ${around}C${toX - 20} ${around} ${toX - 70} ${toY} ${toX} ${toY}`
        : `M${fromX} ${fromY}C${fromX + bend} ${fromY} ${toX - bend} ${toY} ${toX} ${toY}`;
      return html`<g key=${`${edge.from} ${edge.to} ${edge.type}`}>
        <path class="edge" d=${path} />
        ${
        !isFar &&
        html`
          <text class="edge-name" x=${fromX + bend} y=${(fromY + toY) / 2 - 6}>${edge.type}</text>
          <text class="edge-cost" x=${fromX + bend} y=${(fromY + toY) / 2 + 15}>${costOf(edge)}</text>
        `
      }
      </g>`;
    })
  }
    ${
    flow.nodes.map((/** @type {any} */ node) => {
      const [x, y] = at(node.name);
      const times = flow.times[node.name];
      return html`
        <g key=${node.name} transform=${`translate(${x} ${y})`}>
          <rect class="graph-node" width=${WIDTH} height=${HEIGHT} rx="8" />
          <rect class=${`graph-stripe part-fill is-${
            HUES[node.component] ?? "control"
          }`} width="6" height=${HEIGHT} rx="3" />
          <text class="graph-name" x="16" y="23">${node.name}</text>
          <text class="graph-kind" x="16" y="42">${node.kind.replaceAll("_", " ")}${times?.count
            ? ` · ${duration(times.p50_s)}`
            : ""}</text>
        </g>
      `;
    })
  }
  </svg>`;
}
