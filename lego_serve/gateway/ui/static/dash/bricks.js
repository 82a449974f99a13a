// The sign of the house: a replica is a brick, its studs are the images in the step that runs.
import { age, bytes, counted, duration, tail } from "../app/format.js";
import { classes, html } from "../app/lib.js";
import { serverNow } from "./store.js";

const STUDS = { backbone: 8, other: 4 };
const MOST_STUDS = 12;
/** @type {Record<string, string>} */
const KINDS = { templates: "control", prompts: "prompts", adapters: "adapters", pictures: "control" };

/** @param {{card: any, onOpen?: (id: string) => void}} props */
export function ReplicaBrick({ card, onOpen }) {
  const { running, waiting, step_s: stepS } = card.load;
  const isLost = card.state === "lost";
  const room = card.component === "backbone" ? STUDS.backbone : STUDS.other;
  const count = Math.min(MOST_STUDS, Math.max(room, running + waiting));
  const studs = Array.from(
    { length: count },
    (_, at) => (at < running ? "is-on" : at < running + waiting ? "is-waiting" : ""),
  );
  const says = isLost
    ? "lost"
    : running > 0
    ? `${running} ${card.component === "backbone" ? "running" : "on"}`
    : card.state === "draining"
    ? "draining"
    : "idle";
  const more = isLost
    ? `${age(Math.max(0, serverNow() - (card.lost_at ?? 0)))} ago`
    : running > 0 && stepS > 0
    ? `${duration(stepS)}/step${waiting > 0 ? ` · ${waiting} wait` : ""}`
    : `${waiting} waiting`;
  const words = `${card.component} replica ${tail(card.id)} on ${card.machine || "a machine"}: ${says}, ${
    counted(waiting, "image")
  } waiting`;
  return html`
    <button
      type="button"
      class=${classes(
        "replica",
        card.component !== "backbone" && "is-small",
        isLost && "is-lost",
        card.state === "draining" && "is-draining",
        card.heard_s > 3 && "is-old",
      )}
      aria-label=${words}
      title=${`${card.id}${card.machine ? ` on ${card.machine}` : ""}`}
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

/** @param {{memory: Record<string, [number, number]>}} props */
export function MemoryBar({ memory }) {
  const kinds = Object.entries(memory);
  const whole = kinds.reduce((sum, [, [used, budget]]) => sum + Math.max(used, budget), 0) || 1;
  const said = kinds.map(([kind, [used, budget]]) => `${kind} ${bytes(used)}${budget ? ` of ${bytes(budget)}` : ""}`)
    .join(", ");
  return html`<span class="brick-bar" title=${said}>
    ${
    kinds.map(([kind, [used]]) =>
      html`<span key=${kind} class=${`part is-${KINDS[kind] ?? "waits"}`} style=${{
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
 * @param {{node: any, model: string, replicas: Record<string, any>, onOpen?: (id: string) => void}} props
 */
export function NodeBricks({ node, model, replicas, onOpen }) {
  const cards = cardsOf(replicas, model, node.component);
  const facts = [
    node.up !== cards.length || cards.length !== 1 ? `${node.up} up` : "",
    node.draining > 0 ? `${node.draining} draining` : "",
    node.lost > 0 ? `${node.lost} lost` : "",
  ].filter(Boolean);
  return html`
    <div class=${classes("node", cards.length > 2 && "is-wide")}>
      <p class="node-name"><strong>${node.component}</strong> <span>${facts.join(" · ")}</span></p>
      <div class="node-bricks">
          ${cards.map((/** @type {any} */ card) =>
            html`<${ReplicaBrick} key=${card.id} card=${card} onOpen=${onOpen} />`
          )}
          ${cards.length === 0 && html`<span class="hint">none answers</span>`}
        </div>
    </div>
  `;
}

/**
 * A model with all its nodes.
 * @param {{model: any, replicas: Record<string, any>, onOpen?: (id: string) => void}} props
 */
export function ModelRow({ model, replicas, onOpen }) {
  const lost = model.nodes.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.lost, 0);
  const { within } = model;
  return html`
    <section class="model" aria-label=${`Model ${model.name}`}>
      <div class="model-facts">
          <h3><a href=${`/dashboard/models/${encodeURIComponent(model.name)}`}>${model.name}</a></h3>
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
            html`<${NodeBricks} key=${node.component} node=${node} model=${model.name} replicas=${replicas} onOpen=${onOpen} />`
          )}
        </div>
    </section>
  `;
}
