// One request in time: a row a node, hatched while it waits, a cell a step.
import { duration, tail } from "../app/format.js";
import { Words } from "../app/kit.js";
import { classes, html } from "../app/lib.js";
import { ticksOf } from "./scale.js";

/** @type {Record<string, string>} */
const HUES = {
  text_encode: "prompts",
  load_adapters: "adapters",
  encode_controls: "control",
  encode_image: "control",
  encode_edit: "control",
  denoise: "steps",
  decode: "decode",
  decode_edit: "decode",
};

/** @param {{request: any}} props */
export function Waterfall({ request }) {
  const { spans, total_s: total, critical } = request;
  const target = request.target_s !== null && request.target_s < 1.5 * total ? request.target_s : null; // else far off
  const whole = Math.max(total, target ?? 0, 0.001) * 1.02;
  const at = (/** @type {number} */ seconds) => `${Math.min(100, Math.max(0, (seconds / whole) * 100))}%`;
  const ticks = ticksOf(whole);
  const isCovered = (/** @type {number} */ tick) => target !== null && Math.abs(tick - target) < 0.09 * whole;
  return html`
    <div class="waterfall">
      <table>
        <caption class="for-ears">The nodes of request ${request
          .id}: when each began and ended, and what it cost</caption>
        <thead>
          <tr>
            <th scope="col"><span class="for-ears">node</span></th>
            <td class="track is-axis" aria-hidden="true">${ticks.map((tick) =>
              html`<span key=${tick} class="tick" style=${{ left: at(tick) }}>${
                isCovered(tick) ? "" : tick === 0 ? "0" : duration(tick)
              }</span>`
            )}
              ${target !== null && html`<span class="tick is-target" style=${{ left: at(target) }}>target</span>`}</td>
            <th scope="col"><span class="for-ears">took</span></th>
          </tr>
        </thead>
        <tbody>
            <tr>
              <th scope="row">whole request<small><${Words} text=${`${request.workflow} · ${
                request.size.replace("x", " × ")
              }`} /></small></th>
              <td class="track"><${Lines} ticks=${ticks} at=${at} target=${target} /><span class="whole-line" style=${{
                left: "0",
                width: at(total),
              }}></span></td>
              <td class="took">${duration(total)}</td>
            </tr>
            ${spans.map((/** @type {any} */ span) =>
              html`
                <${SpanRow} key=${span.node} span=${span} at=${at} ticks=${ticks} target=${target}
                  isCritical=${critical.includes(span.node)} />
              `
            )}
          </tbody>
      </table>
      <${Legend} spans=${spans} />
    </div>
  `;
}

/** @param {{ticks: number[], at: (seconds: number) => string, target: number | null}} props */
function Lines({ ticks, at, target }) {
  return html`${ticks.map((tick) => html`<span key=${tick} class="grid-line" style=${{ left: at(tick) }}></span>`)}
    ${target !== null && html`<span class="grid-line is-target" style=${{ left: at(target) }}></span>`}`;
}

/** @param {{span: any, at: (seconds: number) => string, ticks: number[], target: number | null, isCritical: boolean}} props */
function SpanRow({ span, at, ticks, target, isCritical }) {
  const hue = HUES[span.kind] ?? "decode";
  const { from_s: from, to_s: to, steps } = span;
  const took = to - from;
  const worked = steps.length > 0 ? steps[0][0] : Math.max(from, to - span.run_s);
  const computing = steps.reduce((/** @type {number} */ sum, /** @type {number[]} */ step) => sum + step[1], 0);
  const facts = [
    span.cache === "hit" ? "from the cache" : "",
    span.batch > 1 && span.kind !== "denoise" ? `batch of ${span.batch}` : "",
    steps.length > 0 && computing < took * 0.95 ? `${duration(computing)} computing` : "",
    span.redone > 0 ? `${span.redone} steps again` : "",
  ].filter(Boolean);
  const what = span.kind === "denoise" && steps.length > 0
    ? `denoise · ${steps.length} steps`
    : span.kind.replaceAll("_", " ");
  return html`
    <tr class=${classes(isCritical && "is-critical")}>
      <th scope="row"><${Words} text=${span.node} /><small>${what}</small></th>
      <td class="track">
          <${Lines} ticks=${ticks} at=${at} target=${target} />
          <div class="bars" aria-hidden="true">
            ${worked - from > 0.001 &&
              html`<span class="part is-waits" style=${{ left: at(from), width: widthOf(worked - from, at) }}></span>`}
            ${steps.length > 0
              ? html`<${Steps} steps=${steps} at=${at} />`
              : html`<span class=${classes("part", `is-${hue}`, !span.is_done && "is-open")} style=${{
                left: at(worked),
                width: widthOf(to - worked, at),
              }}></span>`}
            ${span.attempts.filter((/** @type {any} */ each) => each.end).map((/** @type {any} */ each) =>
              html`<span key=${each.at_s} class="part is-lost" style=${{
                left: at(each.at_s),
                width: widthOf(each.end_s - each.at_s, at),
              }} title=${`${each.replica} ${each.end}`}></span>`
            )}
            ${isCritical &&
              html`<span class="critical-line" style=${{ left: at(from), width: widthOf(took, at) }}></span>`}
          </div>
          <span class="for-ears">from ${duration(from)} to ${duration(to)}${isCritical
            ? ", decides the total"
            : ""}</span>
          ${span.notes.length > 0 &&
            html`<ul class="notes">${
              span.notes.map((
                /** @type {[number, string, string]} */ [when, words, level],
                /** @type {number} */ index,
              ) =>
                html`<li key=${index} class=${classes("words", level === "bad" && "is-bad")} style=${{
                  marginLeft: at(Math.min(when, 0.55 * (ticks.at(-1) ?? 0))),
                }}>${level === "bad" ? "▲" : "‖"} ${words}</li>`
              )
            }</ul>`}
        </td>
      <td class="took">${span.is_done ? duration(took) : html`<em>running</em>`}${facts.map((fact) =>
        html`<small key=${fact}>${fact}</small>`
      )}
          ${span.attempts.length > 0 &&
            html`<small>on ${
              span.attempts.map((/** @type {any} */ each) => tail(each.replica)).join(", ")
            }</small>`}</td>
    </tr>
  `;
}

/** @param {{steps: [number, number, number][], at: (seconds: number) => string}} props */
function Steps({ steps, at }) {
  const most = Math.max(...steps.map(([, , lanes]) => lanes), 2);
  return steps.map(([when, took, lanes], index) =>
    html`
      <span
        key=${index}
        class="part is-steps is-step"
        style=${{
          left: at(when),
          width: `calc(${widthOf(took, at)} - 1px)`,
          opacity: 0.62 + 0.38 * ((lanes - 1) / (most - 1)),
        }}
        title=${`step ${index + 1}: ${duration(took)}, ${lanes} ${lanes === 1 ? "image" : "images"}`}
      ></span>
    `
  );
}

/**
 * @param {number} seconds
 * @param {(seconds: number) => string} at
 */
function widthOf(seconds, at) {
  return `max(2px, ${at(seconds)})`;
}

/** @param {{spans: any[]}} props */
function Legend({ spans }) {
  const kinds = new Set(spans.map((span) => HUES[span.kind] ?? "decode"));
  const words = /** @type {[string, string][]} */ ([
    ["waits", "waits"],
    ["prompts", "prompts"],
    ["adapters", "adapters"],
    ["control", "maps, images"],
    ["steps", "a step, stronger with more images"],
    ["decode", "decode"],
  ]).filter(([hue]) => hue === "waits" || kinds.has(hue));
  return html`<ul class="legend">${
    words.map(([hue, word]) => html`<li key=${hue}><span class=${`swatch part is-${hue}`}></span>${word}</li>`)
  }
    <li><span class="swatch is-critical"></span>decides the total</li></ul>`;
}
