// The playground: make an image, edit it, see where its time went.
import { key, keyWanted } from "../app/api.js";
import { Brick, Icon } from "../app/icons.js";
import { isTyped, KeyButton, KeyDialog, ThemeButton, toast, Toasts } from "../app/kit.js";
import { html, render, useEffect } from "../app/lib.js";
import { counted } from "../app/format.js";
import { Form } from "./form.js";
import * as history from "./history.js";
import { cancel, start } from "./run.js";
import { settingsIn } from "./png.js";
import { Side } from "./side.js";
import { Stage } from "./stage.js";
import {
  cards,
  change,
  choices,
  facts,
  form,
  isComparing,
  loadError,
  loadModels,
  mask,
  maskChanged,
  run,
  source,
  takeSource,
} from "./state.js";
import { formOf } from "./request.js";
import { paintKey } from "./tools.js";

function Top() {
  const isReady = facts.value.is_ready && cards.value !== null;
  return html`<header class="top">
    <h1 class="for-ears">Playground</h1>
      <a class="brand" href="/" aria-label="lego_serve"><${Brick} /> <span>lego_serve</span></a>
    <nav aria-label="Pages"><a href="/" aria-current="page">Playground</a><a href="/dashboard">Dashboard</a></nav>
    <span class="spacer"></span>
    ${
    loadError.value && loadError.value.code !== "server_starting"
      ? html`
        <button type="button" class="badge is-bad"
          onClick=${loadModels}><${Icon} name="alert" size="14" /> not loaded: try again</button>
      `
      : html`<span class=${`badge ${isReady ? "is-ok" : "is-warn"}`}><${Icon} name=${
        isReady ? "check" : "hold"
      } size="14" /> ${isReady ? `${counted(choices.value.length, "workflow")} ready` : "starting"}</span>`
  }
    <${ThemeButton} />
    ${(facts.value.keys || key.value) && html`<${KeyButton} />`}
  </header>`;
}

/** @param {KeyboardEvent} event */
function press(event) {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  else if (event.key === "Escape" && run.value) cancel();
  else if (isTyped(event)) return;
  else if (form.value.mode === "edit" && mask.value && source.value && !run.value && paintKey(event, mask.value)) {
    isComparing.value = false;
    maskChanged();
  } else return;
  event.preventDefault();
}

/**
 * Takes an image that is dropped or pasted: while edits are made to be edited, else with its settings where it has them.
 * @param {DataTransfer | null} data
 */
async function take(data) {
  const files = [...(data?.files ?? [])];
  if (files.length === 0 || run.value) return;
  const file = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
  const isEdit = form.value.mode === "edit";
  const wanted = await settingsIn(file);
  if (!wanted || isEdit) {
    const isTaken = await takeSource(file, "file");
    if (isTaken && wanted) toast("It carries settings too: dropped while Generate is chosen it gives them back.");
    return;
  }
  form.value = formOf(wanted, form.value);
  change({});
  toast("The settings of this image are back in the form.");
}

function Playground() {
  useEffect(() => {
    history.load();
    loadModels();
    /** @param {DragEvent} event */
    const drop = (event) => (event.preventDefault(), take(event.dataTransfer));
    /** @param {ClipboardEvent} event */
    const paste = (event) => take(event.clipboardData);
    addEventListener("keydown", press);
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", drop);
    addEventListener("paste", paste);
  }, []);
  return html`
    <${Top} />
        <div class="play-columns">
      <${Form} />
      <${Stage} />
      ${cards.value && html`<${Side} />`}
    </div>
        <${Toasts} />
        ${keyWanted.value && html`<${KeyDialog} onKey=${loadModels} />`}
  `;
}

render(html`<${Playground} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
