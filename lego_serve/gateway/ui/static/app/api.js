// Requests to this server, with the key of this tab.
import { signal } from "./lib.js";

const STORED_KEY = "lego.key";
const MOST_BYTES = 8192; // of a path and its query: `server.limits.target_bytes`, as it is by default

/** A refusal, or an answer that did not come; `param` names the field it is about. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, param?: string | null, requestId?: string | null, retryS?: number}} [facts]
   */
  constructor(message, { status = 0, code = null, param = null, requestId = null, retryS = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = requestId;
    this.retryS = retryS;
  }
}

export const key = signal(storedKey());
/** Why a key is asked for; empty while none is. */
export const keyWanted = signal("");

function storedKey() {
  try {
    return sessionStorage.getItem(STORED_KEY) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} value */
export function setKey(value) {
  key.value = value.trim();
  try {
    if (key.value) sessionStorage.setItem(STORED_KEY, key.value);
    else sessionStorage.removeItem(STORED_KEY);
  } catch {
    // It holds until the page is left.
  }
}

/**
 * Asks the server and returns its answer.  Throws ApiError for any other than a success.  A path is ASCII; one that
 * the server would not take, since it names something by a longer text, is not sent.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function ask(path, options = {}) {
  if (path.length > MOST_BYTES) {
    const message =
      `What is asked for has too long a name: an address may have ${MOST_BYTES} bytes, not ${path.length}.`;
    throw new ApiError(message, { code: "uri_too_long" });
  }
  const headers = new Headers(options.headers);
  if (key.value) headers.set("authorization", `Bearer ${key.value}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", { code: "unreachable" });
  }
  if (answer.ok) return answer;
  const error = await refusal(answer);
  if (error.status === 401) keyWanted.value = key.value ? "This key is not known here." : "This server asks for a key.";
  throw error;
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function askJson(path, options) {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : await answer.json();
}

/**
 * @param {string} path
 * @param {unknown} body
 * @param {string} [method]
 */
export function sendJson(path, body, method = "POST") {
  return askJson(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

/** @param {Response} answer */
async function refusal(answer) {
  const facts = { status: answer.status, requestId: answer.headers.get("x-request-id") };
  const retryS = Number(answer.headers.get("retry-after")) || 0;
  try {
    const { error } = await answer.json();
    return new ApiError(error.message, { ...facts, code: error.code, param: error.param, retryS });
  } catch {
    return new ApiError(`The server answered with status ${answer.status}.`, { ...facts, retryS });
  }
}

/**
 * What went wrong, in one sentence.
 * @param {unknown} error
 */
export function said(error) {
  return error instanceof Error ? error.message : String(error);
}
