// Decisions, errors and alerts in words.
import { age, short, tail } from "../app/format.js";
import { Icon } from "../app/icons.js";
import { html, signal } from "../app/lib.js";
import { requestPath } from "./rows.js";
import { serverNow } from "./store.js";

/** @type {Record<string, [string, string, (decision: any) => string]>} */
const KINDS = {
  lost: ["close", "bad", (d) => `Replica ${tail(d.subject)} is gone`],
  up: ["arrowUp", "ok", (d) => `Replica ${tail(d.subject)} is up`],
  drain: ["arrowDown", "muted", (d) => `Replica ${tail(d.subject)} is drained`],
  refuse: ["decisions", "warn", (d) => `${d.count} ${d.count === 1 ? "request" : "requests"} refused`],
  scale: [
    "arrowUp",
    "ok",
    (d) => `${d.subject} ${d.from} → ${d.to} replicas`,
  ],
  pin: ["pin", "muted", (d) => `Replicas of ${d.subject} pinned`],
  evict: [
    "caches",
    "muted",
    (d) => d.subject.startsWith("template ") ? `Activations of ${d.subject} let go` : "Room was made",
  ],
  warm: ["play", "muted", (d) => `${d.subject} is warmed`],
  cancel: ["close", "muted", (d) => `${short(d.job)} cancelled`],
  pause: ["hold", "muted", (d) => `${short(d.job)} paused`],
  resume: ["play", "muted", (d) => `${short(d.job)} resumed`],
  load: ["models", "muted", (d) => `${d.subject} waited for its model`],
  steal: ["reuse", "muted", (d) => `${short(d.job)} went to a replica without work`],
  quarantine: ["alert", "bad", (d) => `${d.subject} is held back`],
  dispatcher: ["models", "muted", (d) => `The dispatcher ${d.subject}`],
};

/** @param {{decisions: any[], empty?: string}} props */
export function DecisionList({ decisions, empty = "Nothing had to be decided yet." }) {
  if (decisions.length === 0) return html`<p class="empty">${empty}</p>`;
  return html`<ol class="decisions">
    ${
    decisions.map((each) => {
      const [icon, level, title] = KINDS[each.kind] ?? ["decisions", "muted", () => `${each.kind}: ${each.subject}`];
      return html`
        <li key=${`${each.gateway}. ${each.number}`}>
          <span class=${`decision-icon is-${level}`}><${Icon} name=${each.kind === "scale" && each.to < each.from
            ? "arrowDown"
            : icon} size="16" /></span>
          <div>
            <p class="words">${title(each)}${each.count > 1 && each.kind !== "refuse"
              ? ` (${each.count} times)`
              : ""}</p>
            <p class="hint words" title=${each.why.length > 200 ? each.why : undefined}>${each.why.slice(0, 1)
              .toUpperCase()}${each.why.slice(1)}. ${each.job
              ? html`
                <a class="mono" href=${requestPath(each.job)}>${short(each.job)}</a>
              `
              : ""}</p>
          </div>
          <time class="hint" datetime=${new Date(each.at * 1000).toISOString()}>${age(serverNow() - each.at)}</time>
        </li>
      `;
    })
  }
  </ol>`;
}

const dismissed = signal(/** @type {string[]} */ ([]));

/** @param {{alerts: any[]}} props */
export function Alerts({ alerts }) {
  const shown = alerts.filter(({ id }) => !dismissed.value.includes(id));
  return html`<div class="alerts" role="status" aria-live="polite" aria-atomic="false">
    ${
    shown.map((alert) =>
      html`<section key=${alert.id} class=${`alert is-${alert.level}`}>
        <${Icon} name="alert" />
        <p class="words"><strong>${alert.said}</strong> ${alert.more} <span class="hint" aria-live="off">${
        age(serverNow() - alert.since)
      } ago</span></p>
        ${alert.href && html`<a class="button is-small" href=${alert.href}>See what happened</a>`}
        <button type="button" class="icon-button" aria-label="Dismiss" onClick=${() => (dismissed.value = [
        ...dismissed.value,
        alert.id,
      ])}><${Icon} name="close" /></button>
      </section>`
    )
  }
  </div>`;
}
