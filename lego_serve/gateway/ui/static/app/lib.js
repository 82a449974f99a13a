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
