// Where the nodes of a graph go.

/**
 * The names of nodes by column: each is one to the right of the last node that it waits for.
 * @param {string[]} names
 * @param {{from: string, to: string}[]} edges
 * @returns {string[][]}
 */
export function columnsOf(names, edges) {
  const depth = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round++) {
    for (const { from, to } of edges) depth.set(to, Math.max(depth.get(to) ?? 0, (depth.get(from) ?? 0) + 1));
  }
  const columns = /** @type {string[][]} */ ([]);
  for (const name of names) (columns[Math.min(depth.get(name) ?? 0, names.length)] ??= []).push(name);
  return columns.filter(Boolean);
}
