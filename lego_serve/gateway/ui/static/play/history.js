// The images of this browser, in IndexedDB: at most 200 of them and 200 MB, oldest out first.
import { signal } from "../app/lib.js";
import { within } from "./bounds.js";

/**
 * @typedef {{
 *   id: number, made: number, wanted: import("./request.js").Wanted, blob: Blob, seed: number, width: number,
 *   height: number, took: number, facts: Record<string, any>, source: Blob | null, mask: Blob | null, url: string,
 * }} KeptImage
 */

const STORE = "images";

/** Newest first. */
export const images = signal(/** @type {KeptImage[]} */ ([]));
/** Whether they outlast this page; a private window may keep nothing. */
export const isKept = signal(true);

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("lego_serve", 2);
    request.onupgradeneeded = () => {
      for (const name of request.result.objectStoreNames) request.result.deleteObjectStore(name);
      request.result.createObjectStore(STORE, { keyPath: "id" });
    };
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
    const stored = /** @type {KeptImage[]} */ (await transact("readonly", (store) => store.getAll()));
    images.value = stored.sort((a, b) => b.id - a.id).map((each) => ({
      ...each,
      url: URL.createObjectURL(each.blob),
    }));
  } catch {
    isKept.value = false;
  }
}

/**
 * Shows an image at once, and keeps it when the browser has time: one that keeps nothing must not hide it.
 * @param {Omit<KeptImage, "id" | "url">} image
 */
export function add(image) {
  const id = Math.max(Date.now(), (images.value[0]?.id ?? 0) + 1);
  const added = { ...image, id, url: URL.createObjectURL(image.blob) };
  const all = [added, ...images.value];
  images.value = within(all);
  keep(added, all.slice(images.value.length));
  return added;
}

/**
 * @param {KeptImage} added
 * @param {KeptImage[]} gone
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

/** @param {KeptImage} image */
export async function remove(image) {
  images.value = images.value.filter((each) => each.id !== image.id);
  await forget(image);
}

/** @param {KeptImage} image */
async function forget(image) {
  URL.revokeObjectURL(image.url);
  await transact("readwrite", (store) => store.delete(image.id)).catch(() => {});
}

export async function clear() {
  for (const each of images.value) URL.revokeObjectURL(each.url);
  images.value = [];
  await transact("readwrite", (store) => store.clear()).catch(() => {});
}
