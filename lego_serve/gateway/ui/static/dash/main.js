// The dashboard's frame: navigation, the state of the link, keys, and the view of the address.
import { key, keyWanted } from "../app/api.js";
import { age, clock, counted } from "../app/format.js";
import { Brick, Icon } from "../app/icons.js";
import { Dialog, isTyped, KeyButton, KeyDialog, ThemeButton, Toasts, toggleTheme } from "../app/kit.js";
import { html, render, signal, useEffect } from "../app/lib.js";
import { Actions, asked, cancelAction, menuOf } from "./actions.js";
import { Failure } from "./asking.js";
import { Caches } from "./caches.js";
import { Decisions } from "./decisions.js";
import { Models } from "./models.js";
import { Alerts } from "./notices.js";
import { Overview } from "./overview.js";
import { Requests } from "./requests.js";
import { rowAt } from "./rows.js";
import { go, route, start as startRouter } from "./router.js";
import * as store from "./store.js";
import { Workflows } from "./workflows.js";

const PAGES = {
  requests: Requests,
  models: Models,
  workflows: Workflows,
  caches: Caches,
  decisions: Decisions,
};
/** @type {[string, string, string, string][]} */
const NAV = [
  ["overview", "Overview", "/dashboard", "o"],
  ["requests", "Requests", "/dashboard/requests", "r"],
  ["models", "Models", "/dashboard/models", "m"],
  ["workflows", "Workflows", "/dashboard/workflows", "w"],
  ["caches", "Caches", "/dashboard/caches", "c"],
  ["decisions", "Decisions", "/dashboard/decisions", "d"],
];
const isHelping = signal(false);

function Nav() {
  const overview = store.view.value?.overview;
  const models = Object.values(store.view.value?.models ?? {});
  /** @type {Record<string, number | undefined>} */
  const counts = overview && {
    requests: overview.counts.in_flight,
    models: models.length,
    workflows: new Set(models.flatMap((model) => model.workflows)).size,
  };
  return html`
    <aside class="nav">
      <a class="brand" href="/dashboard"><${Brick} /> <span>lego_serve</span></a>
      <nav aria-label="Dashboard">
          ${NAV.map(([page, name, path, letter]) =>
            html`<a key=${page} href=${path} title=${`g ${letter}`} aria-current=${
              route.value.page === page ? "page" : undefined
            }>
        <${Icon} name=${page} /> <span>${name}</span> ${
              counts?.[page] !== undefined && html`<span class="nav-count">${counts[page]}</span>`
            }
      </a>`
          )}
          <p class="nav-head">Make</p>
          <a href="/" class="nav-play"><${Icon} name="play" /> <span class="wide">Playground</span><span class="narrow">Make</span></a>
        </nav>
      <footer>
          ${overview && html`
            <p>
              <${Health} overview=${overview} />
            </p>
          `}
          <div><${ThemeButton} />${(key.value || store.refusedBy.value) && html`<${KeyButton} />`}
          <button type="button" class="icon-button" aria-label="Keys" title="Keys (?)" onClick=${() => (isHelping
            .value = true)}>?</button></div>
        </footer>
    </aside>
  `;
}

/** @param {{overview: any}} props */
function Health({ overview }) {
  const ready = overview.gateways.every((/** @type {any} */ each) => each.is_ready);
  const models = Object.values(store.view.value?.models ?? {});
  const count = models.reduce(
    (/** @type {number} */ sum, /** @type {any} */ model) =>
      sum +
      model.nodes.reduce((/** @type {number} */ all, /** @type {any} */ node) => all + node.up + node.draining, 0),
    0,
  );
  return html`
    <span class=${`badge ${ready ? "is-ok" : "is-warn"}`}>${ready ? "✓ ready" : "‖ starting"}</span>
    <span class="hint">${counted(overview.gateways.length, "gateway")}, ${counted(count, "replica")} on ${counted(
      overview.machines,
      "machine",
    )}</span>
  `;
}

function Link() {
  store.tick.value;
  const ms = store.silence.value;
  if (store.heldSince.value !== null) {
    return html`<span class="pill is-warn">‖ held since ${clock(store.heldSince.value)}, ${
      counted(store.changesHeld.value, "change")
    }</span>`;
  }
  const state = store.link.value;
  if (state === "live") {
    return html`<span class="pill is-ok"><span class="dot"></span> Live <span class="hint">${
      (ms / 1000).toFixed(1)
    } s ago</span></span>`;
  }
  if (state === "stale") {
    return html`<span class="pill is-warn">▲ last heard ${age(ms / 1000)} ago</span>`;
  }
  if (state === "cut") {
    return html`<span class="pill is-bad">✕ Cut off${
      store.againIn.value > 0 ? `; again in ${store.againIn.value} s` : ""
    }</span>`;
  }
  return html`<span class="pill">${state === "refused" ? "not connected" : "connecting…"}</span>`;
}

/** @type {Record<string, string>} */
const ALOUD = {
  live: "Live.",
  stale: "No word from the server.",
  cut: "Cut off from the server.",
  held: "Held still.",
};

/** The state of the link for ears: said when it changes, while the pill counts seconds. */
function LinkAloud() {
  const said = ALOUD[store.heldSince.value === null ? store.link.value : "held"] ?? "";
  return html`<p class="for-ears" role="status">${said}</p>`;
}

function Head() {
  const { page, name } = route.value;
  const title = NAV.find(([each]) => each === page)?.[1] ?? "Not here";
  const find = (/** @type {any} */ event) => {
    event.preventDefault();
    const text = event.target.elements.find.value.trim();
    go(text ? `/dashboard/requests?q=${encodeURIComponent(text)}` : "/dashboard/requests");
  };
  return html`
    <header class="head">
      <h1>${name ? html`<a href=${`/dashboard/${page}`}>${title}</a>` : title}</h1>
      <${Link} />
      <${LinkAloud} />
      <span class="spacer"></span>
      <form role="search" class="find" onSubmit=${find}>
        <${Icon} name="search" size="16" />
        <input id="find" name="find" type="search" aria-label="Find a request" placeholder="Find a request"
          autocomplete="off" spellcheck="false" />
        <kbd aria-hidden="true">/</kbd>
      </form>
      <div class="choice" role="group" aria-label="Time span">
          ${[[300, "5 min"], [3600, "1 hour"]].map(([seconds, text]) =>
            html`<button type="button" key=${seconds} aria-pressed=${store.span.value === seconds} onClick=${() =>
              store.setSpan(Number(seconds))}>${text}</button>`
          )}
        </div>
      <button type="button" class="icon-button is-edged" aria-pressed=${store.heldSince.value !==
        null} aria-label="Hold still"
        title="Hold still (h)" onClick=${store.toggleHold}><${Icon} name=${store.heldSince.value === null
          ? "hold"
          : "play"} /></button>
    </header>
  `;
}

function View() {
  const { page } = route.value;
  const view = store.view.value;
  const refused = store.refusedBy.value;
  const Page = /** @type {any} */ (PAGES)[page];
  if (page === "requests") return html`<${Page} view=${view} />`;
  if (refused) return html`<${Refused} error=${refused} />`;
  if (!view) {
    const failed = store.trouble.value;
    return failed ? html`<${Failure} error=${failed} onRetry=${store.connect} />` : html`<${Loading} />`;
  }
  if (page === "overview") return html`<${Overview} view=${view} />`;
  return Page
    ? html`<${Page} view=${view} name=${route.value.name} />`
    : html`<p class="card empty">There is no such page. <a href="/dashboard">Go to the overview.</a></p>`;
}

/** @param {{error: import("../app/api.js").ApiError}} props */
function Refused({ error }) {
  const said = error.status === 403 ? "This needs an admin key." : error.message;
  return html`
    <section class="card empty-state">
      <${Icon} name="key" size="28" />
      <h2>${said}</h2>
      <p class="hint">${error.status === 403
        ? html`With this key you see <a href="/dashboard/requests">your own requests</a>, and the <a href="/">playground</a> works.`
        : `${error.code ?? ""} ${error.requestId ? `· request ${error.requestId}` : ""}`}</p>
      <div><button type="button" class="button" onClick=${() => (keyWanted.value =
        "Use another key.")}>Use another key</button> <button type="button" class="button" onClick=${store
        .connect}>Try again</button></div>
    </section>
  `;
}

/** Shapes of the final size; their style shows nothing at all for a moment. */
function Loading() {
  return html`
    <div class="loading" aria-busy="true" aria-label="Loading">
      <div class="tiles">${[1, 2, 3, 4, 5].map((each) => html`<div key=${each} class="card tile shape"></div>`)}</div>
      <div class="charts">
        <div class="card chart shape"></div>
        <div class="card chart shape"></div>
      </div>
      <div class="card shape is-tall"></div>
    </div>
  `;
}

function Help() {
  if (!isHelping.value) return null;
  const keys = [
    ["/", "find a request"],
    ...NAV.map(([, name, , letter]) => [`g ${letter}`, name]),
    ["g p", "Playground"],
    ["j k", "next and previous row"],
    ["Enter", "open the row"],
    ["x", "cancel the row (asks)"],
    ["h", "hold still"],
    ["t", "theme"],
    ["?", "this list"],
  ];
  return html`
    <${Dialog} title="Keys" onClose=${() => (isHelping.value = false)}>
      <dl class="keys">${keys.map(([press, what]) =>
        html`
          <dt key=${press}><kbd>${press}</kbd></dt>
          <dd>${what}</dd>
        `
      )}</dl>
      <//>
  `;
}

/** What opens a row, of the lists of requests and of tables. */
const ROWS = ".request-row:not(.is-head) a, main .plain tbody th :is(a, button)";
let isGoing = false;

/** @param {KeyboardEvent} event */
function press(event) {
  if (isTyped(event) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) {
    return;
  }
  const wasGoing = isGoing;
  isGoing = false;
  const rows = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(ROWS))];
  const at = rows.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  if (wasGoing) {
    const found = NAV.find(([, , , letter]) => letter === event.key);
    if (event.key === "p") location.href = "/";
    else if (found) go(found[2]);
    else return;
  } else if (event.key === "g") isGoing = true;
  else if (event.key === "/") document.getElementById("find")?.focus();
  else if (event.key === "h") store.toggleHold();
  else if (event.key === "t") toggleTheme();
  else if (event.key === "?") isHelping.value = true;
  else if (event.key === "j") rows[Math.min(rows.length - 1, at + 1)]?.focus();
  else if (event.key === "k") rows[Math.max(0, at - 1)]?.focus();
  else if (event.key === "x" && at >= 0) {
    const row = rowAt(rows[at]);
    if (!row || row.state === "ended" || !store.mayAct()) return;
    asked.value = cancelAction(row);
  } else return;
  event.preventDefault();
}

function Dashboard() {
  useEffect(() => {
    startRouter();
    store.start();
    addEventListener("keydown", press);
  }, []);
  useEffect(() => {
    const title = NAV.find(([page]) => page === route.value.page)?.[1] ?? "Dashboard";
    document.title = `${title} - lego_serve`;
  }, [route.value]);
  const alerts = store.view.value?.overview.alerts ?? [];
  return html`<a class="skip" href="#main">To the content</a>
    <${Nav} />
    <div class="page">
      <${Head} />
      ${store.refusedBy.value === null && html`<${Alerts} alerts=${alerts} />`}
      <main id="main" tabindex="-1"><${View} /></main>
    </div>
    ${(asked.value || menuOf.value) && html`<${Actions} />`}
    <${Help} />
    <${Toasts} />
    ${keyWanted.value && html`<${KeyDialog} onKey=${store.keyChanged} />`}`;
}

render(html`<${Dashboard} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
