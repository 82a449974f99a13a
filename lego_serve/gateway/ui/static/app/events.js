// Server-sent events, read from a fetch: EventSource can neither send a key nor a body.

/** @typedef {{event: string, data: string, id: string}} ServerEvent */

/** Takes text in any pieces and returns the events that are whole. */
export class EventParser {
  constructor() {
    this.rest = "";
    this.event = "";
    this.id = "";
    /** @type {string[]} */
    this.data = [];
  }

  /**
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  push(text) {
    const events = [];
    this.rest += text;
    for (;;) {
      const end = this.rest.search(/\r\n|\n|\r(?!$)/);
      if (end < 0) return events;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith("\r\n", end) ? 2 : 1));
      if (line) this.#take(line);
      else if (this.data.length > 0) {
        events.push({ event: this.event || "message", data: this.data.join("\n"), id: this.id });
        this.event = "";
        this.data = [];
      } else this.event = "";
    }
  }

  /** @param {string} line */
  #take(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.data.push(value);
    else if (field === "event") this.event = value;
    else if (field === "id") this.id = value;
  }
}

/**
 * Reads an answer's events to its end.  `onBytes` hears of every piece, pings too.
 * @param {Response} answer
 * @param {(event: ServerEvent) => void} onEvent
 * @param {() => void} [onBytes]
 */
export async function readEvents(answer, onEvent, onBytes = () => {}) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    for (const event of parser.push(decoder.decode(value, { stream: true }))) onEvent(event);
  }
}
