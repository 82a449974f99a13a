// Asks for what a view shows, again and again while it is seen and not held still; and says what went wrong.
import { askJson, said } from "../app/api.js";
import { html, useEffect, useRef, useState } from "../app/lib.js";
import { heldSince, tick } from "./store.js";

/**
 * Rises every so many seconds; not while the page is held still or hidden.
 * @param {number} seconds
 */
export function useBeat(seconds) {
  const beat = useRef(0);
  if (heldSince.value === null) beat.current = Math.floor(tick.value / seconds);
  return beat.current;
}

/**
 * The last answer of a path, the error of the last try, and what tries it again.
 * @param {string} path
 * @param {unknown} [beat] a new one asks again
 * @param {(path: string) => Promise<any>} [ask]
 * @returns {[any, import("../app/api.js").ApiError | null, () => void]}
 */
export function useAnswer(path, beat, ask = askJson) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {import("../app/api.js").ApiError | null} */ (null));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let isLeft = false;
    ask(path).then(
      (answer) => isLeft || (setFound(answer), setError(null)),
      (problem) => isLeft || setError(problem),
    );
    return () => {
      isLeft = true;
    };
  }, [path, beat, turn]);
  return [found, error, () => setTurn((count) => count + 1)];
}

const PAGE = 200;

/**
 * The first entries of a list, page by page.
 * @param {string} path with its query
 * @param {number} most
 */
export async function askPages(path, most) {
  /** @type {any[]} */
  const data = [];
  let [cursor, total] = ["0", 0];
  while (cursor && data.length < most) {
    const list = await askJson(`${path}&limit=${Math.min(PAGE, most)}&cursor=${cursor}`);
    data.push(...list.data);
    [cursor, total] = [list.next, list.total];
  }
  return { data, total };
}

/**
 * What went wrong: its sentence, its code and the request's id; the rest of the page lives.
 * @param {{error: import("../app/api.js").ApiError | null, onRetry: () => void}} props
 */
export function Failure({ error, onRetry }) {
  if (!error) return null;
  return html`
    <div class="failure">
      <p><span role="alert">${said(error)}</span> ${error.code && html`<span class="mono">${error.code}</span>`}
        ${error.requestId && html`<span class="hint">request ${error.requestId}</span>`}</p>
      <button type="button" class="button is-small" onClick=${onRetry}>Try again</button>
    </div>
  `;
}
