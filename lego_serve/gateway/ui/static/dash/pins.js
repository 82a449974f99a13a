// Keeps the number of a node's replicas within bounds, until the server is started anew.
import { askJson, said, sendJson } from "../app/api.js";
import { counted } from "../app/format.js";
import { Dialog, toast } from "../app/kit.js";
import { html, useState } from "../app/lib.js";

const MOST = 64;

/** @param {{node: any, onClose: () => void}} props */
export function PinDialog({ node, onClose }) {
  const [least, setLeast] = useState(String(node.min));
  const [most, setMost] = useState(String(node.max));
  const [refusal, setRefusal] = useState("");
  const name = node.scaled_as;
  const path = `/v1/admin/nodes/${encodeURIComponent(name)}/replicas`;
  const [min, max] = [Number(least), Number(most)];
  /** @param {() => Promise<string>} act */
  const go = async (act) => {
    try {
      toast(await act());
      onClose();
    } catch (error) {
      setRefusal(said(error));
    }
  };
  const pin = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!(Number.isInteger(min) && Number.isInteger(max) && min >= 1 && max <= MOST && min <= max)) {
      return setRefusal(`Whole numbers from 1 to ${MOST}, the first not above the second.`);
    }
    return go(async () => {
      await sendJson(path, { min, max }, "PUT");
      return `${name} is pinned to ${min === max ? counted(min, "replica") : `${min} to ${max} replicas`}.`;
    });
  };
  const unpin = () =>
    go(async () => (await askJson(path, { method: "DELETE" }), `The configuration of ${name} holds.`));
  const field = (
    /** @type {string} */ label,
    /** @type {string} */ value,
    /** @type {(text: string) => void} */ set,
  ) =>
    html`
      <label
        class="field"><span class="label">${label}</span><input type="number" min="1" max=${MOST} required value=${value} onInput=${(
          /** @type {any} */ event,
        ) => (set(event.target.value), setRefusal(""))} /></label>
    `;
  return html`
    <${Dialog} title=${`Pin the replicas of ${node.component}`} onClose=${onClose}>
      <form onSubmit=${pin}>
        <p>Now ${counted(node.up, "replica")} of ${name} ${node.up === 1 ? "is" : "are"} up and ${node
          .target} ${node.target === 1 ? "is" : "are"} wanted, from ${node.min} to ${node
          .max}. The bounds hold from the next second on, until the server is started anew;
          replicas above them are drained first, so that no image is lost.</p>
        <div class="pair">${field("At least", least, setLeast)}${field("At most", most, setMost)}</div>
        ${refusal && html`<p class="refusal" role="alert">${refusal}</p>`}
        <footer>
          <button type="button" class="button" autofocus onClick=${onClose}>Leave it</button>
          ${node.is_pinned && html`<button type="button" class="button" onClick=${unpin}>Unpin</button>`}
          <button type="submit" class="button is-main">Pin</button>
        </footer>
      </form>
      <//>
  `;
}
