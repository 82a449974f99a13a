// Brings what is known up to date: only what has changed is new, all else stays the same object.

/**
 * @param {any} view
 * @param {any} patch
 * @returns {any}
 */
export function merge(view, patch) {
  const next = { ...view, at: patch.at ?? view.at };
  if (patch.overview) next.overview = { ...view.overview, ...patch.overview };
  for (const part of ["models", "replicas", "requests", "decisions"]) {
    if (!patch[part]) continue;
    next[part] = { ...view[part] };
    for (const [id, card] of Object.entries(patch[part])) {
      if (card === null) delete next[part][id];
      else next[part][id] = { ...next[part][id], ...card };
    }
  }
  if (patch.series) next.series = extended(view.series, patch.series);
  return next;
}

/**
 * Series with further points at their end; as many fall out at their beginning.
 * @param {any} before
 * @param {any} more
 */
function extended(before, more) {
  if (before.step_s !== more.step_s) return before;
  const length = Math.max(...Object.values(before.series).map((points) => /** @type {any[]} */ (points).length));
  const end = before.from + length * before.step_s;
  const gap = Math.max(0, Math.round((more.from - end) / before.step_s));
  /** @type {Record<string, (number | null)[]>} */
  const series = {};
  let added = 0;
  for (const [name, points] of Object.entries(before.series)) {
    const known = Math.max(0, Math.round((end - more.from) / before.step_s));
    const fresh = [...Array(gap).fill(null), ...(more.series[name] ?? []).slice(known)];
    added = fresh.length;
    series[name] = [.../** @type {any[]} */ (points), ...fresh].slice(-length);
  }
  return { ...before, from: before.from + added * before.step_s, series };
}

/**
 * Rows in the places that they had: those that left the list stay, as they are known now, and new ones come after.
 * @param {any[]} before
 * @param {any[]} rows
 * @param {Record<string, any>} known
 */
export function inPlace(before, rows, known) {
  const now = new Map(rows.map((row) => [row.id, row]));
  const old = new Set(before.map(({ id }) => id));
  return [
    ...before.map((row) => now.get(row.id) ?? known[row.id] ?? row),
    ...rows.filter(({ id }) => !old.has(id)),
  ];
}
