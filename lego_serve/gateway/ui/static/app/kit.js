// Parts that both pages are made of: theme, dialogs, toasts, the key, copying.
import { key, keyWanted, setKey } from "./api.js";
import { Icon } from "./icons.js";
import { classes, html, signal, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
/** Whether the page is dark now. */
export const isDark = signal(themeNow() === "dark");
systemIsDark.addEventListener("change", () => (isDark.value = themeNow() === "dark"));

function themeNow() {
  return document.documentElement.dataset.theme ?? (systemIsDark.matches ? "dark" : "light");
}

export function toggleTheme() {
  const wanted = isDark.value ? "light" : "dark";
  const isSystems = (wanted === "dark") === systemIsDark.matches;
  try {
    if (isSystems) localStorage.removeItem("lego.theme");
    else localStorage.setItem("lego.theme", wanted);
  } catch {
    // It holds until the page is left.
  }
  if (isSystems) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  isDark.value = wanted === "dark";
}

export function ThemeButton() {
  const label = isDark.value ? "Use the light theme" : "Use the dark theme";
  return html`
    <button type="button" class="icon-button" onClick=${toggleTheme} aria-label=${label} title=${label}>
      <${Icon} name=${isDark.value ? "sun" : "moon"} />
    </button>
  `;
}

/**
 * A dialog over the page.  Escape and a click beside it close it, and focus goes back to where it was.
 * @param {{
 *   title: string, onClose: () => void, children?: any, wide?: boolean, onKey?: (event: KeyboardEvent) => void,
 * }} props
 */
export function Dialog({ title, onClose, children, wide = false, onKey }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useLayoutEffect(() => {
    const dialog = box.current;
    const before = document.activeElement;
    dialog?.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  /** @param {Event} event */
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`
    <dialog
      ref=${box}
      class=${classes("dialog", wide && "is-wide")}
      aria-labelledby="dialog-title"
      onCancel=${cancel}
      onClick=${(/** @type {MouseEvent} */ event) => event.target === box.current && onClose()}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => (event.stopPropagation(), onKey?.(event))}
    >
      <div class="dialog-box">
          <header>
            <h2 id="dialog-title" class="words">${title}</h2>
            <button type="button" class="icon-button" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button>
          </header>
          ${children}
        </div>
    </dialog>
  `;
}

/** @type {import("./lib.js").Signal<{id: number, text: string, isBad: boolean}[]>} */
const toasts = signal([]);
let nextToast = 0;

/**
 * Says something in passing, aloud too.
 * @param {string} text
 * @param {boolean} [isBad]
 */
export function toast(text, isBad = false) {
  const id = nextToast++;
  toasts.value = [...toasts.value.slice(-2), { id, text, isBad }];
  setTimeout(() => (toasts.value = toasts.value.filter((each) => each.id !== id)), isBad ? 9000 : 5000);
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${
    toasts.value.map((each) =>
      html`<p key=${each.id} class=${classes("toast", each.isBad && "is-bad")}>
        <${Icon} name=${each.isBad ? "alert" : "check"} /> ${each.text}
      </p>`
    )
  }
  </div>`;
}

/** Asks for a key while one is wanted. */
export function KeyDialog({ onKey = () => location.reload() }) {
  const [typed, setTyped] = useState(key.value);
  useEffect(() => setTyped(key.value), [keyWanted.value]);
  if (!keyWanted.value) return null;
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    setKey(typed);
    keyWanted.value = "";
    onKey();
  };
  return html`
    <${Dialog} title="API key" onClose=${() => (keyWanted.value = "")}>
      <form onSubmit=${submit}>
        <p>${keyWanted.value} It is kept for this tab alone and sent to this server only.</p>
        <label class="field">
          <span class="label">Key</span>
          <input
            type="password"
            autocomplete="off"
            spellcheck="false"
            value=${typed}
            onInput=${(/** @type {any} */ event) => setTyped(event.target.value)}
          />
        </label>
        <footer>
            ${key.value &&
              html`<button type="button" class="button" onClick=${() => setTyped("")}>Empty the field</button>`}
            <button type="submit" class="button is-main">Use this key</button>
          </footer>
      </form>
      <//>
  `;
}

/** @param {{reason?: string}} props */
export function KeyButton({ reason = "Requests are sent with this key." }) {
  return html`<button type="button" class="button" onClick=${() => (keyWanted.value = reason)}>
    <${Icon} name="key" /> ${key.value ? "Key set" : "Key"}
  </button>`;
}

/**
 * Copies a text and says so.
 * @param {string} text
 * @param {string} what
 */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    toast("The browser does not let this page copy; mark the text instead.", true);
  }
}

/**
 * A name or a sentence from elsewhere, of any length: six lines are seen, the whole is its title.
 * @param {{text: string}} props
 */
export function Words({ text }) {
  return html`<span class="words" title=${text.length > 40 ? text : undefined}>${text}</span>`;
}

/**
 * One of a few choices, as a row of buttons.
 * @param {{label: string, choices: [string, string][], value: string, onChange: (value: string) => void}} props
 */
export function Choice({ label, choices, value, onChange }) {
  return html`<div class="choice" role="group" aria-label=${label}>
    ${
    choices.map(([id, text]) =>
      html`<button type="button" key=${id} aria-pressed=${id === value} onClick=${() => onChange(id)}>${text}</button>`
    )
  }
  </div>`;
}

/**
 * Whether a key press belongs to a field, and is no command.
 * @param {KeyboardEvent} event
 */
export function isTyped(event) {
  const place = event.target;
  if (!(place instanceof HTMLElement)) return false;
  const isText = place instanceof HTMLInputElement && !["range", "checkbox", "radio", "button"].includes(place.type);
  return isText || place instanceof HTMLTextAreaElement || place instanceof HTMLSelectElement;
}
