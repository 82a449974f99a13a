// What of the address filters the list of requests, and the name in a path: both may be whatever somebody typed.

const FILTERS = ["q", "state", "workflow", "outcome", "tenant", "over_s", "sort"];
const MOST_CHARACTERS = 200; // of one filter: all together stay below what a server takes as an address

/**
 * The filters that have a value, as the query of a request, and what is wrong with them; empty where nothing is.
 * @param {URLSearchParams} query of the address
 * @returns {{text: string, complaint: string}}
 */
export function filtersOf(query) {
  const given = FILTERS.map((name) => [name, query.get(name) ?? ""]).filter(([, value]) => value);
  const [, long] = given.find(([, value]) => value.length > MOST_CHARACTERS) ?? ["", ""];
  const complaint = long &&
    `A filter may have ${MOST_CHARACTERS} characters and this one has ${long.length}: ask for fewer words.`;
  return { text: new URLSearchParams(given).toString(), complaint };
}

/**
 * A part of a path as it was before it was encoded; as it is where it is no encoding of a text.
 * @param {string} part
 */
export function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
