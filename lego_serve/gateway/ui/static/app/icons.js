// Icons of 20 by 20, drawn with lines in the colour of the text.
import { html } from "./lib.js";

/** @type {Record<string, string>} */
const PATHS = {
  alert: "M10 3 18 17H2ZM10 8v4M10 14.2v.3",
  arrowDown: "M10 4v12M5 11l5 5 5-5",
  arrowUp: "M10 16V4M5 9l5-5 5 5",
  brush: "M4 16c0-3 1-4 3-4s2 3-3 4ZM8 11l8-8 1.5 1.5-8 8",
  caches: "M4 5c0-3 12-3 12 0v10c0 3-12 3-12 0ZM4 5c0 3 12 3 12 0M4 10c0 3 12 3 12 0",
  check: "M4 10.5 8 15l8-10",
  clear: "M5 6v11h10V6M3 6h14M8 3h4M8 9v5M12 9v5",
  close: "M5 5l10 10M15 5 5 15",
  compare: "M3 4h6v12H3ZM11 4h6v12h-6M10 2v16",
  copy: "M7 7h9v10H7ZM4 13V3h9",
  decisions: "M10 3v4M5 17v-5l5-5 5 5v5M3 17h4M13 17h4M8 3h4",
  dice: "M4 4h12v12H4ZM7.5 7.5v.1M12.5 7.5v.1M7.5 12.5v.1M12.5 12.5v.1",
  download: "M10 3v9M6 9l4 4 4-4M4 16h12",
  eraser: "M8 16 3.5 11.5 11 4l5.5 5.5L10 16ZM7 8l5.5 5.5M8 16h8",
  half: "M10 3a7 7 0 100 14 7 7 0 000-14ZM10 3v14M13 5v10",
  hold: "M7 4v12M13 4v12",
  image: "M3 4h14v12H3ZM3 13l4-4 4 4 2-2 4 4M13 8v.1",
  key: "M8 12a4 4 0 11.1 0ZM10 10l7-7M14 6l2 2",
  link: "M8 12l4-4M9 6l2-2a3.5 3.5 0 015 5l-2 2M11 14l-2 2a3.5 3.5 0 01-5-5l2-2",
  models: "M3 8h14v9H3ZM5 8V5h3v3M12 8V5h3v3",
  moon: "M15.5 12.5A6.5 6.5 0 017.5 4.5a6.5 6.5 0 108 8Z",
  more: "M5 10v.1M10 10v.1M15 10v.1",
  overview: "M3 3h6v6H3ZM11 3h6v3h-6ZM11 9h6v8h-6ZM3 12h6v5H3Z",
  pin: "M7 3h6l-1 6 3 3H5l3-3ZM10 12v6",
  play: "M6 4l10 6-10 6Z",
  plus: "M10 4v12M4 10h12",
  rect: "M3 5h14v10H3Z",
  redo: "M16 8H8a4 4 0 000 8h4M13 4.5 16.5 8 13 11.5",
  requests: "M3 5h14M3 10h14M3 15h9",
  reuse: "M4 10a6 6 0 0110-4.5L16 8M16 4v4h-4M16 10a6 6 0 01-10 4.5L4 12M4 16v-4h4",
  search: "M9 3a6 6 0 100 12A6 6 0 009 3ZM13.5 13.5 18 18",
  sun:
    "M10 6.5a3.5 3.5 0 100 7 3.5 3.5 0 000-7ZM10 2v2M10 16v2M2 10h2M16 10h2M4.5 4.5 6 6M14 14l1.5 1.5M15.5 4.5 14 6M6 14l-1.5 1.5",
  undo: "M4 8h8a4 4 0 010 8H8M7 4.5 3.5 8 7 11.5",
  upload: "M10 13V4M6 7l4-4 4 4M4 16h12",
  workflows: "M5 3h4v4H5ZM11 13h4v4h-4ZM3 13h4v4H3ZM7 7v3h-2v3M7 10h6v3",
};

/** @param {{name: string, size?: number}} props */
export function Icon({ name, size = 18 }) {
  return html`
    <svg class="icon" width=${size} height=${size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d=${PATHS[name]} fill=${name === "play" ? "currentColor" : undefined} />
    </svg>
  `;
}

/** The sign of the house: a brick with two studs. */
export function Brick() {
  return html`
    <svg class="brand-brick" width="28" height="22" viewBox="0 0 28 22" aria-hidden="true" focusable="false">
      <path class="stud" d="M4 1h7v5H4ZM17 1h7v5h-7Z" />
      <path class="body" d="M1 5h26v15H1Z" />
      <path class="shade" d="M1 14h26v6H1Z" />
    </svg>
  `;
}
