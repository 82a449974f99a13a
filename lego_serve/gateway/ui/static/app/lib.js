// The one place that names the vendored libraries: what the pages draw with.

import { Fragment, h, render } from "preact";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import htm from "htm";
import { batch, computed, effect, signal } from "@preact/signals";

/** @template T @typedef {import("@preact/signals").Signal<T>} Signal */

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(/** @type {any} */ (h));
export { batch, computed, effect, Fragment, h, render, signal };
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };

/**
 * Joins the names of classes that are given.
 * @param {...(string | false | null | undefined)} names
 */
export function classes(...names) {
  return names.filter(Boolean).join(" ");
}

/**
 * A component whose module is loaded when it is drawn for the first time; nothing is drawn until then.
 * @param {() => Promise<any>} load
 * @param {string} name
 */
export function later(load, name) {
  const loaded = signal(/** @type {any} */ (null));
  /** @type {Promise<void> | null} */
  let loading = null;
  return (/** @type {any} */ props) => {
    loading ??= load().then((module) => void (loaded.value = module[name]));
    return loaded.value && h(loaded.value, props);
  };
}
