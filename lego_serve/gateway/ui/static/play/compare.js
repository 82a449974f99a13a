// Two images under one slider, and the settings in which they differ.
import { html, useRef, useState } from "../app/lib.js";
import { images } from "./history.js";
import { differences } from "./request.js";
import { compared } from "./state.js";

/** @param {{image: import("./history.js").KeptImage}} props */
export function Comparison({ image }) {
  const chosen = images.value.find(({ id }) => id === compared.value && id !== image.id);
  const index = images.value.findIndex(({ id }) => id === image.id);
  const other = chosen ?? (image.source ? null : images.value[index + 1] ?? images.value[index - 1] ?? null);
  const sourceUrl = useObjectUrl(chosen ? null : image.source);
  const before = other?.url ?? sourceUrl;
  if (!before) return html`<p class="hint">Choose another image below to compare with.</p>`;
  const rows = other
    ? differences({ ...other.wanted.body, seed: other.seed }, { ...image.wanted.body, seed: image.seed })
    : [];
  return html`<${Slider} before=${before} after=${image.url} size=${[image.width, image.height]} names=${
    other ? ["one", "other"] : ["before", "after"]
  } />
    ${
    other
      ? html`
        <div class="differences">
          <table>
                    <caption>${rows.length === 0 ? "Both were made with the same settings." : "What differs"}</caption>
                    ${rows.length > 0 && html`
                      <thead>
                        <tr>
                          <th scope="col">setting</th>
                          <th scope="col">one</th>
                          <th scope="col">other</th>
                        </tr>
                      </thead>
                    `}
                    <tbody>${rows.map(([name, one, two]) =>
                      html`
                        <tr key=${name}>
                          <th scope="row">${name}</th>
                          <td>${one}</td>
                          <td>${two}</td>
                        </tr>
                      `
                    )}</tbody>
                  </table>
        </div>
      `
      : html`
        <p
          class="board-note"><strong>Before and after.</strong> <span>Choose another image below to compare with that.</span><span class="spacer"></span><span>seed ${image
            .seed}</span></p>
      `
  }`;
}

/**
 * The address of a blob for as long as it is shown.
 * @param {Blob | null} blob
 */
function useObjectUrl(blob) {
  const kept = useRef(/** @type {{blob: Blob | null, url: string}} */ ({ blob: null, url: "" }));
  if (kept.current.blob !== blob) {
    if (kept.current.url) URL.revokeObjectURL(kept.current.url);
    kept.current = { blob, url: blob ? URL.createObjectURL(blob) : "" };
  }
  return kept.current.url;
}

/** @param {{before: string, after: string, size: [number, number], names: string[]}} props */
function Slider({ before, after, size, names }) {
  const [share, setShare] = useState(0.5);
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  /** @param {PointerEvent} event */
  const follow = (event) => {
    const { left, width } = /** @type {HTMLElement} */ (box.current).getBoundingClientRect();
    setShare(Math.min(1, Math.max(0, (event.clientX - left) / width)));
  };
  /** @param {PointerEvent} event */
  const down = (event) => {
    box.current?.setPointerCapture(event.pointerId);
    follow(event);
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to = {
      ArrowLeft: share - step,
      ArrowDown: share - step,
      ArrowRight: share + step,
      ArrowUp: share + step,
      Home: 0,
      End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    setShare(Math.min(1, Math.max(0, to)));
  };
  const percent = Math.round(share * 100);
  return html`
    <div
      class="board is-compared"
      ref=${box}
      style=${{ "--ratio": `${size[0] / size[1]}`, aspectRatio: `${size[0]} / ${size[1]}` }}
      onPointerDown=${down}
      onPointerMove=${(/** @type {PointerEvent} */ event) => event.buttons === 1 && follow(event)}
    >
      <img src=${after} alt=${names[1]} draggable=${false} />
      <img class="over" src=${before} alt=${names[0]} draggable=${false} style=${{
        clipPath: `inset(0 ${100 - share * 100}% 0 0)`,
      }} />
      <span class="tag">${names[0]}</span>
      <span class="tag is-right">${names[1]}</span>
      <span class="compare-line" style=${{ left: `${share * 100}%` }}></span>
      <span
        class="compare-grip"
        role="slider"
        tabindex="0"
        aria-label="How much of the first image is seen"
        aria-valuemin="0"
        aria-valuemax="100"
        aria-valuenow=${percent}
        aria-valuetext=${`${percent} percent ${names[0]}`}
        style=${{ left: `${share * 100}%` }}
        onKeyDown=${press}
      >↔</span>
    </div>
  `;
}
