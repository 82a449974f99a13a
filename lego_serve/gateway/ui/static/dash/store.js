// What the dashboard knows: one stream of changes from the gateway, kept while it is cut, held still when asked.
import { ApiError, ask, key, keyWanted, said } from "../app/api.js";
import { readEvents } from "../app/events.js";
import { signal } from "../app/lib.js";
import { merge } from "./merge.js";
import { route } from "./router.js";

/**
 * @typedef {{
 *   at: number, overview: any, models: Record<string, any>, replicas: Record<string, any>, requests: Record<string, any>,
 *   decisions: Record<string, any>, series: {step_s: number, from: number, series: Record<string, (number | null)[]>},
 * }} View
 */

const STALE_MS = 3000;
const CUT_MS = 15000;
const WAITS_S = [1, 2, 4, 8];

/**
 * The models, those with something lost or waiting first where they are many, else by their names.
 * @param {View} view
 * @returns {any[]}
 */
export function modelsOf({ models }) {
  const all = Object.values(models);
  const trouble = (/** @type {any} */ model) =>
    model.waiting +
    100 * model.nodes.reduce((/** @type {number} */ sum, /** @type {any} */ node) => sum + node.lost, 0);
  const isMany = all.length > 8;
  return all.sort((one, other) => (isMany ? trouble(other) - trouble(one) : 0) || one.name.localeCompare(other.name));
}

/** What is shown; null before the first word. */
export const view = signal(/** @type {View | null} */ (null));
/** "connecting", "live", "stale", "cut" or "refused". */
export const link = signal("connecting");
export const refusedBy = signal(/** @type {ApiError | null} */ (null));
/** Why the last try to connect failed; null while there is a connection. */
export const trouble = signal(/** @type {ApiError | null} */ (null));
/** Milliseconds since the last word. */
export const silence = signal(0);
/** Seconds until it is tried again. */
export const againIn = signal(0);
/** Seconds of the charts: 300 or 3600. */
export const span = signal(300);
/** Since when the page is held still; null while it moves. */
export const heldSince = signal(/** @type {number | null} */ (null));
export const changesHeld = signal(0);
/** Rises every second, so that ages go on. */
export const tick = signal(0);

/** @type {View | null} */
let newest = null;
let heard = performance.now();
let offset = 0; // the server's clock minus ours, in seconds
let isDrawing = false;
/** @type {AbortController | null} */
let open = null;
let failures = 0;
let lastId = ""; // of the last event, and what it was asked with
let lastPath = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let waiting;

/** Seconds on the server's clock. */
export function serverNow() {
  tick.value;
  return heldSince.value !== null && view.value ? view.value.at : Date.now() / 1000 + offset;
}

/** @param {number} seconds */
export function setSpan(seconds) {
  span.value = seconds;
  connect();
}

export function toggleHold() {
  if (heldSince.value === null) heldSince.value = Date.now();
  else {
    heldSince.value = null;
    changesHeld.value = 0;
    view.value = newest;
  }
}

/** The model that is looked at, whose replicas are wanted whatever their number. */
function modelOf() {
  return route.value.page === "models" ? route.value.name : "";
}

/** Opens the stream anew. */
export async function connect() {
  clearTimeout(waiting);
  open?.abort();
  const own = (open = new AbortController());
  againIn.value = 0;
  try {
    const model = modelOf();
    const path = `/v1/admin/events?window=${span.value}${model && `&model=${encodeURIComponent(model)}`}`;
    const goesOn = newest !== null && lastId !== "" && path === lastPath;
    const headers = goesOn ? { "last-event-id": lastId } : undefined;
    const answer = await ask(path, { signal: own.signal, headers });
    lastPath = path;
    failures = 0;
    refusedBy.value = trouble.value = null;
    await readEvents(answer, take, () => (heard = performance.now()));
    if (!own.signal.aborted) retry();
  } catch (error) {
    if (own.signal.aborted) return;
    const isRefused = error instanceof ApiError && [401, 403, 429].includes(error.status);
    if (isRefused) {
      refusedBy.value = error;
      link.value = "refused";
      if (error.status === 429) retry();
    } else retry(error);
  }
}

/** @param {unknown} [error] */
function retry(error) {
  if (document.hidden) return;
  if (error) {
    console.info(`lego_serve: ${said(error)}`);
    trouble.value = error instanceof ApiError ? error : new ApiError(said(error));
  }
  const seconds = WAITS_S[Math.min(failures, WAITS_S.length - 1)];
  failures += 1;
  againIn.value = seconds;
  waiting = setTimeout(connect, seconds * 1000);
}

/** @param {import("../app/events.js").ServerEvent} message */
function take({ event, data, id }) {
  heard = performance.now();
  lastId = id;
  const content = JSON.parse(data);
  if (content.at) offset = content.at - Date.now() / 1000;
  if (event === "snapshot") newest = content;
  else if (event === "patch" && newest) newest = merge(newest, content);
  else return;
  if (heldSince.value !== null) {
    changesHeld.value += 1;
    return;
  }
  if (isDrawing) return; // one redraw a frame
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (heldSince.value === null) view.value = newest;
  });
}

function watch() {
  if (document.hidden) return; // nothing is asked for that nobody sees
  tick.value += 1;
  silence.value = performance.now() - heard;
  if (againIn.value > 0) againIn.value -= 1;
  if (link.value === "refused" && refusedBy.value) return;
  link.value = !newest
    ? (trouble.value ? "cut" : "connecting")
    : silence.value < STALE_MS
    ? "live"
    : silence.value < CUT_MS
    ? "stale"
    : "cut";
}

export function start() {
  setInterval(watch, 1000);
  let looked = modelOf();
  route.subscribe(() => {
    const now = modelOf();
    if (now !== looked && Object.keys(view.value?.models ?? {}).length > 8) connect();
    looked = now;
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(waiting);
      open?.abort();
    } else connect();
  });
  connect();
}

export function keyChanged() {
  keyWanted.value = "";
  link.value = "connecting";
  refusedBy.value = null;
  connect();
}

/** Whether actions may be offered: to those who need no key, and to admins, whom the stream does not refuse. */
export function mayAct() {
  return refusedBy.value === null && (view.value !== null || key.value === "");
}
