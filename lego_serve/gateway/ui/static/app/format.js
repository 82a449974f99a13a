// Numbers, times and sizes in words.

/**
 * Seconds in at most three figures: 40 ms, 0.58 s, 4.6 s, 3 min, 2 h.
 * @param {number | null | undefined} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds < 0.0005) return "0 ms";
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  return age(seconds);
}

/**
 * How long ago, coarsely: 41 s, 3 min, 2 h, 5 d.
 * @param {number} seconds
 */
export function age(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 99.5) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 99 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 47 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/**
 * Bytes in decimal units, as file managers count: 1.4 MB.
 * @param {number | null | undefined} count
 */
export function bytes(count) {
  if (count === null || count === undefined || !Number.isFinite(count)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let amount = count;
  while (Math.abs(amount) >= 999.5 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${unit === 0 || amount >= 99.5 ? Math.round(amount) : amount.toFixed(1)} ${units[unit]}`;
}

/**
 * A share of one as a percentage: 97.8 %.
 * @param {number | null | undefined} share
 * @param {number} [digits]
 */
export function percent(share, digits = 1) {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  return `${(share * 100).toFixed(digits)} %`;
}

/**
 * A number and what is counted, in the right form: 1 image, 2 images.
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/**
 * The end of an identifier that is long enough to tell it from others.
 * @param {string} id
 */
export function short(id) {
  const bare = id.replace(/^job_/, "");
  return bare.length <= 12 ? bare : bare.slice(0, 8);
}

/**
 * The last letters of a replica's identifier; a shared worker adds to its own the name of a node.
 * @param {string | null | undefined} id
 */
export function tail(id) {
  return id ? id.split(".")[0].slice(-4) : "–";
}

/**
 * A time of the day on this machine's clock: 17:02:09.
 * @param {number} ms
 */
export function clock(ms) {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}
