// The pictures of this browser, in IndexedDB: at most 200 of them and 200 MB, oldest out first.
import { signal } from "../app/lib.js";
import { within } from "./bounds.js";

/**
 * @typedef {{
 *   id: number, made: number, wanted: import("./request.js").Wanted, blob: Blob, seed: number, width: number,
 *   height: number, took: number, facts: Record<string, any>, source: Blob | null, mask: Blob | null, url: string,
 * }} Picture
 */

const STORE = "pictures";

/** Newest first. */
export const pictures = signal(/** @type {Picture[]} */ ([]));
/** Whether they outlast this page; a private window may keep nothing. */
export const isKept = signal(true);

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("lego_serve", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>} act
 * @returns {Promise<T>}
 */
async function transact(mode, act) {
  const database = await open();
  return await new Promise((resolve, reject) => {
    const request = act(database.transaction(STORE, mode).objectStore(STORE));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export async function load() {
  try {
    const stored = /** @type {Picture[]} */ (await transact("readonly", (store) => store.getAll()));
    pictures.value = stored.sort((a, b) => b.id - a.id).map((each) => ({
      ...each,
      url: URL.createObjectURL(each.blob),
    }));
  } catch {
    isKept.value = false;
  }
}

/**
 * Shows a picture at once, and keeps it when the browser has time: one that keeps nothing must not hide it.
 * @param {Omit<Picture, "id" | "url">} picture
 */
export function add(picture) {
  const id = Math.max(Date.now(), (pictures.value[0]?.id ?? 0) + 1);
  const added = { ...picture, id, url: URL.createObjectURL(picture.blob) };
  const all = [added, ...pictures.value];
  pictures.value = within(all);
  keep(added, all.slice(pictures.value.length));
  return added;
}

/**
 * @param {Picture} added
 * @param {Picture[]} gone
 */
async function keep(added, gone) {
  const { url: _, ...stored } = added;
  try {
    await transact("readwrite", (store) => store.put(stored));
    for (const each of gone) await forget(each);
  } catch {
    isKept.value = false;
  }
}

/** @param {Picture} picture */
export async function remove(picture) {
  pictures.value = pictures.value.filter((each) => each.id !== picture.id);
  await forget(picture);
}

/** @param {Picture} picture */
async function forget(picture) {
  URL.revokeObjectURL(picture.url);
  await transact("readwrite", (store) => store.delete(picture.id)).catch(() => {});
}

export async function clear() {
  for (const each of pictures.value) URL.revokeObjectURL(each.url);
  pictures.value = [];
  await transact("readwrite", (store) => store.clear()).catch(() => {});
}
