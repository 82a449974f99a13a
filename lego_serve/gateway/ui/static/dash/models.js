// Models one to a line, and one model with each of its replicas.
import { bytes, duration, tail } from "../app/format.js";
import { Dialog, Words } from "../app/kit.js";
import { html, signal } from "../app/lib.js";
import { asked, drainAction } from "./actions.js";
import { Failure, useAnswer } from "./asking.js";
import { cardsOf, MemoryBar, ModelRow } from "./bricks.js";
import { Chart, LATENCY_LINES, NO_SERIES } from "./charts.js";
import { DecisionList } from "./notices.js";
import { PinDialog } from "./pins.js";
import { mayAct, span } from "./store.js";
import { ofRoom } from "./studs.js";

const opened = signal("");
/** The node whose replicas are to be pinned. */
const pinned = signal(/** @type {any} */ (null));
const MANY = 20; // models: more are lines, and bricks only where one is opened

/** @param {{view: import("./store.js").View, name: string}} props */
export function Models({ view, name }) {
  const models = Object.values(view.models).sort((one, other) => one.name.localeCompare(other.name));
  const shown = name ? models.filter((/** @type {any} */ model) => model.name === name) : models;
  if (shown.length === 0) {
    return html`<p class="card empty">There is no model ${name}. <a href="/dashboard/models">Show all.</a></p>`;
  }
  const card = view.replicas[opened.value];
  return html`
    <section class="card" aria-label="Models">
      <h2 class="for-ears">Models and their nodes</h2>
      ${shown.length > MANY
        ? html`<${Lines} models=${shown} />`
        : shown.map((/** @type {any} */ model) =>
          html`<${ModelRow} key=${model.name} model=${model} replicas=${view.replicas} onOpen=${(
            /** @type {string} */ id,
          ) => (opened.value = id)} onPin=${
            mayAct() ? (/** @type {any} */ node) => (pinned.value = node) : undefined
          } />`
        )}
    </section>
    ${name && html`
      <${ModelChart} name=${name} at=${Math.floor(view.at / 10)} />
      <div class="two">
        <${Replicas} model=${shown[0]} replicas=${view.replicas} />
        <section class="card" aria-labelledby="why-title">
          <header>
            <h2 id="why-title">Why it scaled</h2>
          </header>
          <${DecisionList} decisions=${whyOf(
            view,
            name,
          )} empty="Its number of replicas has not changed since the start." />
        </section>
      </div>
    `}
    ${pinned.value && html`<${PinDialog} node=${pinned.value} onClose=${() => (pinned.value = null)} />`}
    ${card && !asked.value && html`<${Sheet} card=${card} />`}
  `;
}

/**
 * The decisions about the replicas of a model, the last first.
 * @param {import("./store.js").View} view
 * @param {string} name
 */
function whyOf({ decisions }, name) {
  const kinds = ["scale", "pin", "lost", "up", "drain"];
  return Object.values(decisions).filter(({ kind, node }) => kinds.includes(kind) && node.startsWith(`${name}.`)).sort((
    one,
    other,
  ) => other.at - one.at).slice(0, 12);
}

/** @param {{name: string, at: number}} props */
function ModelChart({ name, at }) {
  const path = `/v1/admin/series?window=${span.value}&model=${encodeURIComponent(name)}`;
  const [series, error, again] = useAnswer(path, at);
  if (!series && error) return html`<${Failure} error=${error} onRetry=${again} />`;
  return html`
    <${Chart} title="Latency of its requests" series=${series ?? NO_SERIES} unit="s" lines=${LATENCY_LINES}
      sentence="Half and 95 of 100 of the requests that this model worked for, over time." />
  `;
}

/** @param {{models: any[]}} props */
function Lines({ models }) {
  return html`
    <div class="table-room" tabindex="0" role="region" aria-label="Table of models">
      <table class="plain">
        <thead>
          <tr>
            <th scope="col">Model</th>
            <th scope="col">Running</th>
            <th scope="col">Waiting</th>
            <th scope="col">Replicas</th>
            <th scope="col">Target</th>
            <th scope="col">Within target</th>
          </tr>
        </thead>
        <tbody>${models.map((model) => {
          const count = model.nodes.reduce(
            (/** @type {number} */ sum, /** @type {any} */ node) => sum + node.up + node.draining,
            0,
          );
          return html`
            <tr key=${model.name}>
              <th scope="row"><a href=${`/dashboard/models/${encodeURIComponent(model.name)}`}><${Words} text=${model
                .name} /></a></th>
              <td>${model.running}</td>
              <td>${model.waiting}</td>
              <td>${count}</td>
              <td>${model.nodes.reduce(
                (/** @type {number} */ sum, /** @type {any} */ node) => sum + (node.target ?? node.up),
                0,
              )}</td>
              <td>${model.within === null ? "–" : `${Math.round(model.within * 100)} %`}</td>
            </tr>
          `;
        })}</tbody>
      </table>
    </div>
  `;
}

/** @param {{model: any, replicas: Record<string, any>}} props */
function Replicas({ model, replicas }) {
  const cards = model.nodes.flatMap((/** @type {any} */ node) => cardsOf(replicas, model.name, node.component));
  return html`
    <section class="card" aria-labelledby="replicas-title">
      <header>
        <h2 id="replicas-title">Replicas</h2>
      </header>
      <div class="table-room" tabindex="0" role="region" aria-label="Table of replicas">
        <table class="plain is-tight">
          <thead>
            <tr>
              <th scope="col">Replica</th>
              <th scope="col">Node</th>
              <th scope="col">Machine</th>
              <th scope="col">State</th>
              <th scope="col">Runs</th>
              <th scope="col">Waits</th>
              <th scope="col">Step</th>
              <th scope="col">Memory</th>
              <th scope="col"><span class="for-ears">Actions</span></th>
            </tr>
          </thead>
          <tbody>${cards.map((/** @type {any} */ card) =>
            html`
              <tr key=${card.id}>
                <th scope="row"><button type="button" class="as-link mono" onClick=${() => (opened.value =
                  card.id)}>${tail(card.id)}</button></th>
                <td>${card.component}</td>
                <td>
                  <${Words} text=${card.machine || "–"} />
                </td>
                <td>${card.state === "up"
                  ? html`<span class="badge is-ok">✓ up</span>`
                  : html`<span class="badge is-warn">▲ ${card.state}</span>`}</td>
                <td>${card.load.running}</td>
                <td>${card.load.waiting}</td>
                <td>${card.load.step_s > 0 ? duration(card.load.step_s) : "–"}</td>
                <td class="memory-cell">
                  <${MemoryBar} memory=${card.memory} />
                </td>
                <td>${card.component.startsWith("backbone") && card.state === "up" && mayAct() &&
                  html`<button type="button" class="button is-small" onClick=${() => (asked.value = drainAction(
                    card,
                  ))}>Drain…</button>`}</td>
              </tr>
            `
          )}</tbody>
        </table>
      </div>
    </section>
  `;
}

/** @param {{card: any}} props */
function Sheet({ card }) {
  const { running, waiting, room, step_s: stepS, recent } = card.load;
  const most = Math.max(room, 1, ...recent);
  const close = () => (opened.value = "");
  return html`<${Dialog} title=${`Replica ${tail(card.id)}`} onClose=${close}>
    <p class="hint">${card.node} on ${card.machine || "a machine"} · <span class="mono">${card.id}</span></p>
    <dl class="facts">
      <dt>state</dt><dd>${card.state}</dd><dt>images in the step</dt><dd>${running}${
    ofRoom(room, card.state)
  }</dd><dt>waiting</dt><dd>${waiting}</dd>
      ${
    stepS > 0 && html`
      <dt>last step</dt>
      <dd>${duration(stepS)}</dd>
    `
  }
    </dl>
    ${
    recent.length > 0 &&
    html`
      <div>
        <h3>Images in the last steps</h3>
        <div class="recent" role="img" aria-label=${recent.join(", ")}>${recent.map((
          /** @type {number} */ lanes,
          /** @type {number} */ at,
        ) => html`<span key=${at} style=${{ height: `${(lanes / most) * 100}%` }}><b>${lanes}</b></span>`)}</div>
      </div>
    `
  }
    ${
    Object.keys(card.memory).length > 0 &&
    html`
      <div>
        <h3>Memory</h3>
        <table class="plain">
          <tbody>${Object.entries(card.memory).map(([kind, [used, budget, evicted]]) =>
            html`
              <tr key=${kind}>
                <th scope="row">${kind}</th>
                <td>${bytes(used)}${budget ? ` of ${bytes(budget)}` : ""}</td>
                <td>${evicted > 0 ? `${evicted} made room` : ""}</td>
              </tr>
            `
          )}</tbody>
        </table>
      </div>
    `
  }
    <footer><button type="button" class="button" onClick=${close}>Close</button>
      ${
    card.component.startsWith("backbone") && card.state === "up" && mayAct() &&
    html`<button type="button" class="button is-main" onClick=${() => (close(),
      (asked.value = drainAction(card)))}>Drain…</button>`
  }</footer>
  <//>`;
}
