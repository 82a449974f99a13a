// The right column: where the time of an image went, and its request as code.
import { key } from "../app/api.js";
import { bytes, duration, percent, short } from "../app/format.js";
import { Icon } from "../app/icons.js";
import { Choice, copy } from "../app/kit.js";
import { html, signal } from "../app/lib.js";
import { codeOf } from "./code.js";
import { images } from "./history.js";
import { shown, wanted } from "./state.js";

const language = signal(/** @type {"curl" | "python" | "cli"} */ ("curl"));

/** The part of the work that a node of these names does, in the order of work. */
const PARTS = /** @type {[RegExp, string, string][]} */ ([
  [/cond|negative|prime|prompt|text/, "prompts", "prompts"],
  [/adapter|lora/, "adapters", "adapters"],
  [/control/, "outline", "control"],
  [/template|source|encode|edit/, "image", "control"],
  [/latent|denoise/, "steps", "steps"],
  [/image|decode/, "decode", "decode"],
]);

export function Side() {
  const image = images.value.find(({ id }) => id === shown.value[0]);
  return html`
    <aside class="side" aria-label="Times and code">
      <${Times} image=${image} />
      <${Code} />
    </aside>
  `;
}

/** @param {{image: import("./history.js").KeptImage | undefined}} props */
function Times({ image }) {
  if (!image) {
    return html`
      <section class="panel">
        <h2>Where the time goes</h2>
        <p class="hint">After an image: how long it waited, and the seconds of each node.</p>
      </section>
    `;
  }
  const { facts } = image;
  const parts = partsOf(facts);
  const whole = Math.max(image.took, ...parts.map(({ to }) => to));
  return html`
    <section class="panel">
      <header><h2>Where the time goes</h2><a href=${`/dashboard/requests/${
        encodeURIComponent(facts.job_id)
      }`} title=${facts.job_id}>job ${short(facts.job_id)}</a></header>
      <table class="times">
        <thead class="for-ears">
          <tr>
            <th scope="col">part</th>
            <th scope="col">when</th>
            <th scope="col">took</th>
          </tr>
        </thead>
        <tbody>
            ${parts.map(({ name, hue, from, to, nodes }) =>
              html`
                <tr key=${name}>
                  <th scope="row">${name}</th>
                  <td class="time-bar"><span class=${`part is-${hue}`} style=${{
                    left: `${(from / whole) * 100}%`,
                    width: `max(2px, ${((to - from) / whole) * 100}%)`,
                  }}></span></td>
                  <td class="time-said">${duration(to - from)}</td>
                </tr>
                ${nodes.length > 1 &&
                  html`
                    <tr class="is-nodes" key=${`${name} nodes`}>
                      <td colspan="3">${nodes.map(([node, took]) => `${node} ${duration(took)}`).join(" · ")}</td>
                    </tr>
                  `}
              `
            )}
            <tr class="is-whole"><th scope="row">whole</th><td></td><td class="time-said">${duration(
              image.took,
            )}</td></tr>
          </tbody>
      </table>
      <dl class="facts">
          <dt>seed</dt><dd>${image.seed}</dd>
          ${facts.cache_hits > 0 && html`
            <dt>prompts found in the cache</dt>
            <dd>${facts.cache_hits}</dd>
          `}
          ${facts.tier && facts.tier.name !== "exact" && html`
            <dt>tier</dt>
            <dd>${`${facts.tier.name}, ${facts.tier.evaluations} of ${facts.tier.steps} steps`}</dd>
          `}
          ${facts.steps_redone > 0 && html`
            <dt>steps made again</dt>
            <dd>${facts.steps_redone}</dd>
          `}
          ${facts.steps_split > 0 && html`
            <dt>steps on two replicas</dt>
            <dd>${facts.steps_split}</dd>
          `}
          ${facts.reuse && html`
            <dt>template</dt>
            <dd>${`read in ${facts.reuse.masked_steps} of ${facts.reuse.steps} steps`}</dd>
          `}
          ${facts.reuse?.rows > 0 && html`
            <dt>computed</dt>
            <dd>${`${percent(facts.reuse.active_rows / facts.reuse.rows, 0)} of the image`}</dd>
          `}
          ${(facts.adapters ?? []).map((/** @type {any} */ use) =>
            html`
              <dt key=${use.name}>adapter</dt>
              <dd>${use.name}, ${use.cache === "hit"
                ? "at hand"
                : `read in ${duration(use.load_s)}, ${bytes(use.bytes)}`}</dd>
            `
          )}
          ${(facts.controlnets ?? []).map((/** @type {any} */ use) =>
            html`
              <dt key=${use.name}>ControlNet</dt>
              <dd>${use.name}, ${use.steps_active} steps</dd>
            `
          )}
        </dl>
    </section>
  `;
}

/**
 * The parts of an image's time one after another.  Nodes of one part run at the same time: the longest counts.
 * @param {Record<string, any>} facts
 */
function partsOf(facts) {
  const seconds = /** @type {Map<string, [string, number, [string, number][]]>} */ (new Map());
  for (const [node, value] of Object.entries(facts.nodes ?? {})) {
    const [, name, hue] = PARTS.find(([pattern]) => pattern.test(node)) ?? [/./, node, "decode"];
    const [took, [, longest, nodes]] = [Number(value), seconds.get(name) ?? [hue, 0, []]];
    seconds.set(name, [hue, Math.max(longest, took), [...nodes, [node, took]]]);
  }
  const order = ["prompts", "adapters", "outline", "image", "steps", "decode"];
  const rows = [...seconds].sort(([one], [other]) => order.indexOf(one) - order.indexOf(other));
  let at = 0;
  const all = /** @type {typeof rows} */ ([["waits", ["waits", facts.queue_s ?? 0, []]], ...rows]);
  return all.map(([name, [hue, took, nodes]]) => {
    const from = at;
    at += took;
    return { name, hue, from, to: at, nodes };
  });
}

function Code() {
  const code = codeOf(language.value, wanted.value, location.origin, key.value !== "");
  return html`
    <section class="panel">
      <header>
        <h2>As code</h2>
        <${Choice} label="Language" choices=${[["curl", "curl"], ["python", "Python"], ["cli", "CLI"]]} value=${language
          .value} onChange=${(/** @type {any} */ each) => (language.value = each)} />
      </header>
      <pre class="code" tabindex="0" aria-label="The request as code"><code>${coloured(code)}</code></pre>
      <div
        class="code-foot"><button type="button" class="button" onClick=${() =>
          copy(code, "The code was")}><${Icon} name="copy" /> Copy</button></div>
    </section>
  `;
}

/**
 * Texts in the colour of texts; the rest plain.
 * @param {string} code
 */
function coloured(code) {
  return code.split(/("(?:[^"\\\n]|\\.)*"|^#.*$)/m).map((
    part,
    index,
  ) => (index % 2 ? html`<span class=${part.startsWith("#") ? "is-note" : "is-text"}>${part}</span>` : part));
}
