// The sign of the house: a replica is a brick, its studs are the images in the step that runs.
import { age, bytes, counted, duration, percent, tail } from "../app/format.js";
import { classes, html } from "../app/lib.js";
import { serverNow } from "./store.js";
import { ofRoom, studsOf } from "./studs.js";

/** @type {Record<string, string>} */
const KINDS = {
  models: "weights",
  weights: "weights",
  host: "control",
  templates: "control",
  prompts: "control",
  adapters: "adapters",
  images: "control",
};

/** @param {{card: any, onOpen?: (id: string) => void}} props */
export function ReplicaBrick({ card, onOpen }) {
  const { running, waiting, room, step_s: stepS } = card.load;
  const isLost = card.state === "lost" || card.state === "stopped";
  const { studs, each } = studsOf(card.load, card.state);
  const says = isLost
    ? card.state
    : running > 0
    ? `${running} ${card.component.startsWith("backbone") ? "running" : "on"}`
    : card.state === "draining"
    ? "draining"
    : "idle";
  const more = isLost
    ? `${age(Math.max(0, serverNow() - (card.lost_at ?? 0)))} ago`
    : running > 0 && stepS > 0
    ? `${duration(stepS)}/step${waiting > 0 ? ` · ${waiting} wait` : ""}`
    : `${waiting} waiting`;
  const words = `${card.component} replica ${tail(card.id)} on ${card.machine || "a machine"}: ${says}${
    card.state === "draining" && running > 0
      ? ", draining"
      : running > 0 && !isLost
      ? ofRoom(room)
      : says === "idle" && room > 0
      ? `, room for ${room}`
      : ""
  }, ${counted(waiting, "image")} waiting`;
  return html`
    <button
      type="button"
      class=${classes(
        "replica",
        !card.component.startsWith("backbone") && "is-small",
        card.state === "lost" && "is-lost",
        card.state === "stopped" && "is-stopped",
        card.state === "draining" && "is-draining",
        card.heard_s > 3 && "is-old",
      )}
      aria-label=${words}
      title=${`${card.id}${card.machine ? ` on ${card.machine}` : ""}${each > 1 ? `; a stud is ${each} images` : ""}`}
      onClick=${() => onOpen?.(card.id)}
    >
      <span class="studs" aria-hidden="true">${isLost
        ? ""
        : studs.map((state, at) => html`<span key=${at} class=${`stud ${state}`}></span>`)}</span>
      <span class="brick">
          <span class="brick-line"><strong>${says}</strong><span class="mono">${tail(card.id)}</span></span>
          <span class="brick-more">${more}</span>
          ${!isLost && html`<${MemoryBar} memory=${card.memory} />`}
        </span>
    </button>
  `;
}

/** A replica that is to be there and does not answer yet. */
function StartingBrick() {
  return html`
    <div class="replica is-starting" role="img" aria-label="a replica that is starting">
      <span class="studs"></span>
      <span class="brick"><span class="brick-line"><strong>starting</strong></span>
        <span class="brick-more">does not answer yet</span></span>
    </div>
  `;
}

/** @param {{memory: Record<string, [number, number]>}} props */
export function MemoryBar({ memory }) {
  const order = Object.keys(KINDS);
  const kinds = Object.entries(memory).sort(([one], [other]) => order.indexOf(one) - order.indexOf(other));
  const whole = kinds.reduce((sum, [, [used, budget]]) => sum + Math.max(used, budget), 0) || 1;
  const said = kinds.map(([kind, [used, budget]]) => `${kind} ${bytes(used)}${budget ? ` of ${bytes(budget)}` : ""}`)
    .join(", ");
  return html`<span class="brick-bar" title=${said}>
    ${
    kinds.map(([kind, [used]]) =>
      html`<span key=${kind} class=${`part is-${KINDS[kind] ?? "control"}`} style=${{
        width: `${(used / whole) * 100}%`,
      }}></span>`
    )
  }
  </span>`;
}

/**
 * The replicas of a node, the oldest first.
 * @param {Record<string, any>} replicas
 * @param {string} model
 * @param {string} component
 */
export function cardsOf(replicas, model, component) {
  return Object.values(replicas)
    .filter((card) => card.model === model && card.component === component)
    .sort((one, other) => one.since - other.since || one.id.localeCompare(other.id));
}

/**
 * The replicas of one node under its name, with how many there are.
 * @param {{node: any, model: any, replicas: Record<string, any>, onOpen?: (id: string) => void, onPin?: (node: any) => void}} props
 */
export function NodeBricks({ node, model, replicas, onOpen, onPin }) {
  const cards = cardsOf(replicas, model.name, node.component);
  const isOff = node.target !== null && node.target !== node.up;
  const facts = [
    node.target === null || (node.target === 1 && !isOff) ? "" : `target ${node.target}`,
    isOff || (node.target === null && cards.length !== 1) ? `${node.up} up` : "",
    node.is_pinned ? "pinned" : "",
    node.draining > 0 ? `${node.draining} draining` : "",
    node.lost > 0 ? `${node.lost} lost` : "",
    node.component === "text_encoder" && model.found !== null ? `${percent(model.found, 0)} from cache` : "",
  ].filter(Boolean);
  return html`
    <div class=${classes(
      "node",
      node.component.startsWith("backbone") && "is-main",
      cards.length + node.starting > 2 && "is-wide",
    )}>
      <p class="node-name"><strong>${node.component}</strong> <span>${facts.join(" · ")}</span> ${onPin &&
        node.target !== null &&
        html`<button type="button" class="as-link" aria-label=${`Pin the replicas of ${node.component}…`} onClick=${() =>
          onPin(node)}>Pin…</button>`}</p>
      <div class="node-bricks">
          ${cards.map((/** @type {any} */ card) =>
            html`<${ReplicaBrick} key=${card.id} card=${card} onOpen=${onOpen} />`
          )}
          ${Array.from(
            { length: Math.min(node.starting, 8) },
            (_, at) => html`<${StartingBrick} key=${`starting ${at}`} />`,
          )}
          ${cards.length + node.starting === 0 && html`<span class="hint">none answers</span>`}
        </div>
    </div>
  `;
}

/**
 * A model with all its nodes.
 * @param {{model: any, replicas: Record<string, any>, onOpen?: (id: string) => void, onPin?: (node: any) => void}} props
 */
export function ModelRow({ model, replicas, onOpen, onPin }) {
  const lost = model.nodes.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.lost, 0);
  const { within } = model;
  return html`
    <section class="model" aria-label=${`Model ${model.name}`}>
      <div class="model-facts">
          <h3><a href=${`/dashboard/models/${encodeURIComponent(model.name)}`}><span class="words">${model
            .name}</span></a></h3>
          ${model.family && html`<p class="hint">${factsOf(model)}</p>`}
          <p class="hint">${counted(model.workflows.length, "workflow")}${model.waiting > 0
            ? ` · ${model.waiting} waiting`
            : ""}</p>
          ${lost > 0
            ? html`<span class="badge is-warn">▲ ${counted(lost, "replica")} lost</span>`
            : within === null
            ? html`<span class="badge">no request yet</span>`
            : within >= 0.95
            ? html`<span class="badge is-ok">✓ within target</span>`
            : html`<span class="badge is-warn">▲ ${Math.round(within * 100)} % within target</span>`}
        </div>
      <div class="model-nodes">
          ${model.nodes.map((/** @type {any} */ node) =>
            html`
              <${NodeBricks} key=${node.component} node=${node} model=${model} replicas=${replicas} onOpen=${onOpen}
                onPin=${onPin} />
            `
          )}
        </div>
    </section>
  `;
}

/** @type {Record<string, string>} */
const FAMILIES = { sd3: "SD3", flux: "FLUX" };

/**
 * What a model is and where it runs, in a line.
 * @param {any} model
 */
export function factsOf({ family, dtype, device }) {
  return [
    FAMILIES[family] ?? family,
    dtype === "auto" ? "" : dtype,
    device.replace("cuda", "GPU").replace("cpu", "CPU"),
  ]
    .filter(Boolean).join(" · ");
}

/** What the colours of the bars under the bricks stand for. */
export function MemoryLegend() {
  return html`
    <ul class="legend">
      ${[["weights", "weights"], ["control", "templates, prompts, images"], ["adapters", "adapters"]].map((
        [hue, word],
      ) => html`<li key=${hue}><span class=${`swatch part is-${hue}`}></span>${word}</li>`)}
    </ul>
  `;
}
