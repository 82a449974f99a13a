// Reads the request that a PNG of this server carries in a text chunk.

const KEYWORD = "lego_serve";

/**
 * The request in a file; null where it carries none.
 * @param {Blob} file
 * @returns {Promise<import("./request.js").Wanted | null>}
 */
export async function settingsIn(file) {
  const text = textOf(new Uint8Array(await file.slice(0, 1 << 17).arrayBuffer()), KEYWORD);
  if (text === null) return null;
  try {
    const { path, body } = JSON.parse(text);
    return { path, body, files: {} };
  } catch {
    return null;
  }
}

/**
 * A text of a PNG by its keyword, before its pixels; null where there is none.
 * @param {Uint8Array} bytes
 * @param {string} keyword
 */
export function textOf(bytes, keyword) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8 || view.getUint32(0) !== 0x89504e47) return null;
  const latin = new TextDecoder("latin1");
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = latin.decode(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IDAT") return null;
    const end = data.indexOf(0);
    if (latin.decode(data.subarray(0, Math.max(end, 0))) === keyword) {
      if (kind === "tEXt") return latin.decode(data.subarray(end + 1));
      // iTXt: keyword, two flags, then a language and a translated keyword, each ended by a zero.
      if (kind === "iTXt" && data[end + 1] === 0) {
        const language = data.indexOf(0, end + 3);
        return new TextDecoder().decode(data.subarray(data.indexOf(0, language + 1) + 1));
      }
    }
    at += 12 + length;
  }
  return null;
}
