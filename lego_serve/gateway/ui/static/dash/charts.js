// Charts: uPlot for the large ones, a line of SVG for the small ones.
import { isDark } from "../app/kit.js";
import { classes, html, useEffect, useRef } from "../app/lib.js";

/** @typedef {{name: string, label: string, hue: string, fill?: boolean, dash?: boolean}} Line */

/** @type {Line[]} */
export const LATENCY_LINES = [
  { name: "p50", label: "p50", hue: "accent" },
  { name: "p95", label: "p95", hue: "part-adapters" },
];

/** Before the first answer: an empty chart takes the place of the one to come, so that nothing moves when it comes. */
export const NO_SERIES = { from: 0, step_s: 0, series: {} };

/** @param {string} name */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * @param {{
 *   title: string, series: any, lines: Line[], unit: string, sentence: string, stacked?: boolean, target?: number | null,
 * }} props
 */
export function Chart({ title, series, lines, unit, sentence, stacked = false, target = null }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [times, ...values] = dataOf(series, lines, stacked);
  const all = target === null ? lines : [...lines, { name: "target", label: "target", hue: "bad", dash: true }];
  if (target !== null) values.push(times.map(() => target));
  useEffect(() => {
    const element = /** @type {HTMLElement} */ (box.current);
    const { uPlot } = /** @type {any} */ (globalThis);
    if (!uPlot) return;
    plot.current = new uPlot(optionsOf(element, all, unit), [times, ...values], element);
    const observer = new ResizeObserver(() => plot.current?.setSize(sizeOf(element)));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [isDark.value, series.step_s, target !== null]);
  useEffect(() => plot.current?.setData([times, ...values]), [series, target]);
  return html`
    <section class="card chart" aria-label=${title}>
      <header>
        <h2>${title}</h2>
        <ul class="legend">${all.map((line) =>
          html`<li key=${line.name}><span class=${
            classes("swatch", line.dash && "is-dash", !line.fill && "is-line")
          } style=${{ "--hue": `var(--${line.hue})` }}></span>${line.label}</li>`
        )}</ul>
      </header>
      <div class="plot" ref=${box} role="img" aria-label=${sentence}></div>
      <${AsTable} series=${series} lines=${lines} unit=${unit} title=${title} />
    </section>
  `;
}

/** @param {{series: any, lines: Line[], unit: string, title: string}} props */
function AsTable({ series, lines, unit, title }) {
  const length = (series.series[lines[0].name] ?? []).length;
  const rows = Array.from({ length: 10 }, (_, at) => length - 1 - at).filter((at) => at >= 0);
  return html`
    <details class="as-table">
      <summary>as a table</summary>
      <table>
        <caption class="for-ears">${title}, the last points</caption>
        <thead>
          <tr><th scope="col">ago</th>${lines.map((line) =>
            html`<th scope="col" key=${line.name}>${line.label}</th>`
          )}</tr>
        </thead>
        <tbody>${rows.map((at) =>
          html`<tr key=${at}><th scope="row">${(length - at) * series.step_s} s</th>${
            lines.map((line) => html`<td key=${line.name}>${series.series[line.name]?.[at] ?? "–"} ${unit}</td>`)
          }</tr>`
        )}</tbody>
      </table>
    </details>
  `;
}

/**
 * The times and values of lines, as uPlot takes them; stacked ones lie on those after them.
 * @param {any} series
 * @param {Line[]} lines
 * @param {boolean} stacked
 * @returns {any[]}
 */
export function dataOf(series, lines, stacked) {
  const length = (series.series[lines[0].name] ?? []).length;
  const times = Array.from({ length }, (_, at) => series.from + at * series.step_s);
  const values = lines.map((line) => series.series[line.name] ?? []);
  if (!stacked) return [times, ...values];
  const sums = values.map((_, first) =>
    times.map((_, at) => values.slice(first).reduce((sum, each) => sum + (each[at] ?? 0), 0))
  );
  return [times, ...sums];
}

/** @param {HTMLElement} element */
function sizeOf(element) {
  return { width: Math.max(120, element.clientWidth), height: 190 };
}

/**
 * @param {HTMLElement} element
 * @param {Line[]} lines
 * @param {string} unit
 */
function optionsOf(element, lines, unit) {
  const [grid, text] = [colour("line"), colour("muted")];
  const axis = {
    stroke: text,
    grid: { stroke: grid, width: 1 },
    ticks: { show: false },
    font: "11px Inter, system-ui, sans-serif",
  };
  return {
    ...sizeOf(element),
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 18, 0, 0],
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: 26,
        splits: (
          /** @type {any} */ _,
          /** @type {number} */ __,
          /** @type {number} */ low,
          /** @type {number} */ high,
        ) => splitsOf(low, high),
        values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((time) => ago(time, at)),
      },
      {
        ...axis,
        size: 44,
        space: 36,
        values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map((value) => `${value} ${unit}`.trim()),
      },
    ],
    scales: {
      x: { time: false },
      y: {
        range: (
          /** @type {any} */ _,
          /** @type {number} */ _low,
          /** @type {number} */ high,
        ) => [0, high > 0 ? high * 1.15 : 1],
      },
    },
    series: [
      {},
      ...lines.map((line) => ({
        stroke: colour(line.hue),
        width: line.dash ? 1.5 : 2,
        dash: line.dash ? [5, 4] : undefined,
        fill: line.fill ? over(colour(line.hue), colour("surface"), isDark.value ? 0.55 : 0.35) : undefined,
        points: { show: false },
        spanGaps: false,
      })),
    ],
  };
}

/**
 * Times that are whole minutes, or tens of them, before the last one.
 * @param {number} low
 * @param {number} high
 */
function splitsOf(low, high) {
  const step = high - low > 600 ? 600 : 60;
  const count = Math.floor((high - low + 2) / step);
  return Array.from({ length: count + 1 }, (_, at) => Math.max(low, high - (count - at) * step));
}

/**
 * @param {number} time
 * @param {number[]} all
 */
function ago(time, all) {
  const minutes = Math.round(((all.at(-1) ?? time) - time) / 60);
  return minutes === 0 ? "now" : `−${minutes} min`;
}

/**
 * A colour laid thinly on another, as an opaque one: areas that overlap must not mix.
 * @param {string} hex
 * @param {string} ground
 * @param {number} share
 */
function over(hex, ground, share) {
  const parts = (/** @type {string} */ text) => [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16));
  const [top, bottom] = [parts(hex), parts(ground)];
  return `rgb(${top.map((part, at) => Math.round(part * share + bottom[at] * (1 - share))).join(" ")})`;
}

/**
 * A small line without axes.
 * @param {{points: (number | null)[], hue?: string, floor?: number, goal?: number}} props
 */
export function Spark({ points, hue = "accent", floor = 0, goal }) {
  const known = points.filter((each) => each !== null);
  const high = Math.max(...known, goal ?? 0, floor + 1e-9);
  const [width, height] = [160, 36];
  const x = (/** @type {number} */ at) => (at / Math.max(1, points.length - 1)) * width;
  const y = (/** @type {number} */ value) => height - 2 - ((value - floor) / (high - floor)) * (height - 5);
  let path = "";
  let isOpen = false;
  points.forEach((value, at) => {
    if (value === null) isOpen = false;
    else {
      path += `${isOpen ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      isOpen = true;
    }
  });
  const firstKnown = points.findIndex((each) => each !== null);
  const lastKnown = points.findLastIndex((each) => each !== null);
  const area = known.length > 1 && !points.slice(firstKnown, lastKnown + 1).includes(null)
    ? `${path}L${x(lastKnown).toFixed(1)} ${height}L${x(firstKnown).toFixed(1)} ${height}Z`
    : "";
  return html`<svg class="spark" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true" style=${{
    "--hue": `var(--${hue})`,
  }}>
    ${area && html`<path class="spark-area" d=${area} />`}
    ${goal !== undefined && html`<path class="spark-goal" d=${`M0 ${y(goal)}H${width}`} />`}
    <path class="spark-line" d=${path} />
  </svg>`;
}
