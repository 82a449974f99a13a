// What an operator may do to a request or a replica: a dialog that names the effect, then the call, then its result.
import { askJson, said, sendJson } from "../app/api.js";
import { counted, short, tail } from "../app/format.js";
import { Dialog, toast } from "../app/kit.js";
import { html, signal, useState } from "../app/lib.js";
import { mayAct } from "./store.js";

/**
 * @typedef {{title: string, effect: string, verb: string, isBad?: boolean, act: () => Promise<string>}} Action
 */

/** The action that is asked about. */
export const asked = signal(/** @type {Action | null} */ (null));
/** The request whose actions are listed. */
export const menuOf = signal(/** @type {any} */ (null));

/** @param {string} id */
function jobPath(id) {
  return `/v1/admin/jobs/${encodeURIComponent(id)}`;
}

/** @param {any} row */
export function cancelAction(row) {
  return /** @type {Action} */ ({
    title: `Cancel ${short(row.id)}?`,
    effect: `Its client gets 409 job_cancelled; the ${
      counted(row.n, "image")
    } and ${row.step} finished steps are lost.`,
    verb: "Cancel the request",
    isBad: true,
    act: async () => (await askJson(jobPath(row.id), { method: "DELETE" }), `${short(row.id)} is cancelled.`),
  });
}

/** @param {any} row */
export function pauseAction(row) {
  const isPaused = row.state === "paused";
  const verb = isPaused ? "resume" : "pause";
  return /** @type {Action} */ ({
    title: isPaused ? `Let ${short(row.id)} go on?` : `Pause ${short(row.id)}?`,
    effect: isPaused
      ? `${
        row.n === 1 ? "Its image goes" : `Its ${row.n} images go`
      } on from step ${row.step} as soon as there is a place.`
      : `${row.n === 1 ? "Its image waits" : `Its ${row.n} images wait`} between two steps, without a place in them. ` +
        "Its deadline goes on.",
    verb: isPaused ? "Resume" : "Pause",
    act:
      async () => (await sendJson(`${jobPath(row.id)}/${verb}`, {}),
        `${short(row.id)} is ${isPaused ? "resumed" : "paused"}.`),
  });
}

/** @param {any} card */
export function drainAction(card) {
  const { running, waiting } = card.load;
  const held = running + waiting;
  return /** @type {Action} */ ({
    title: `Drain ${tail(card.id)}?`,
    effect: held > 0
      ? `Its ${
        held === 1 ? "1 image goes" : `${held} images go`
      } on elsewhere from fresh checkpoints, none is lost. Another replica takes its place.`
      : "It has nothing in hand. Another replica takes its place.",
    verb: "Drain",
    act: async () => {
      const answer = await sendJson(`/v1/admin/replicas/${encodeURIComponent(card.id)}/drain`, {});
      return `${tail(card.id)} is drained: ${counted(answer.calls_moved, "call")} moved.`;
    },
  });
}

/** The dialog that asks, and the list of a request's actions. */
export function Actions() {
  const [isBusy, setBusy] = useState(false);
  if (menuOf.value) return html`<${Menu} row=${menuOf.value} />`;
  const action = asked.value;
  if (!action) return null;
  const close = () => (asked.value = null);
  const go = async () => {
    setBusy(true);
    try {
      toast(await action.act());
      close();
    } catch (error) {
      toast(said(error), true);
      close();
    } finally {
      setBusy(false);
    }
  };
  return html`
    <${Dialog} title=${action.title} onClose=${close}>
      <p class="words">${action.effect}</p>
      <footer>
        <button type="button" class="button" autofocus onClick=${close}>Leave it</button>
        <button type="button" class=${`button ${
          action.isBad ? "is-stop" : "is-main"
        }`} disabled=${isBusy} onClick=${go}>${action.verb}</button>
      </footer>
      <//>
  `;
}

/** @param {{row: any}} props */
function Menu({ row }) {
  const close = () => (menuOf.value = null);
  const pick = (/** @type {Action} */ action) => (close(), (asked.value = action));
  const isLive = row.state !== "ended" && mayAct();
  return html`
    <${Dialog} title=${`Request ${short(row.id)}`} onClose=${close}>
      <p class="hint words">${row.workflow} · ${row.tenant} · <span class="mono">${row.id}</span></p>
      <div class="menu-list">
          <a class="button" href=${`/dashboard/requests/${encodeURIComponent(row.id)}`} onClick=${close}>Open</a>
          ${isLive &&
            html`<button type="button" class="button" onClick=${() => pick(pauseAction(row))}>${
              row.state === "paused" ? "Resume…" : "Pause…"
            }</button>`}
          ${isLive &&
            html`<button type="button" class="button is-stop" onClick=${() =>
              pick(cancelAction(row))}>Cancel…</button>`}
        </div>
      <//>
  `;
}
