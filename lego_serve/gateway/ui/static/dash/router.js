// Addresses of views: every one can be sent to somebody.
import { signal } from "../app/lib.js";
import { decoded } from "./filters.js";

const ROOT = "/dashboard";

/** @typedef {{page: string, name: string, query: URLSearchParams}} Route */

/** @returns {Route} */
function read() {
  const [page = "", ...rest] = location.pathname.slice(ROOT.length).split("/").filter(Boolean);
  return {
    page: page || "overview",
    name: decoded(rest.join("/")),
    query: new URLSearchParams(location.search),
  };
}

export const route = signal(read());

/**
 * @param {string} path
 * @param {{replace?: boolean}} [options]
 */
export function go(path, { replace = false } = {}) {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  const before = route.value.page;
  route.value = read();
  if (!replace && before !== route.value.page) scrollTo(0, 0);
}

/**
 * The address of the present view with other parameters.
 * @param {Record<string, string>} changes
 */
export function withQuery(changes) {
  const query = new URLSearchParams(route.value.query);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  return location.pathname + (text ? `?${text}` : "");
}

/** Follows links within the dashboard without loading the page anew. */
export function start() {
  addEventListener("popstate", () => (route.value = read()));
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey &&
      !event.defaultPrevented;
    if (!link || !isPlain || link.target || !link.pathname.startsWith(ROOT) || link.origin !== location.origin) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
