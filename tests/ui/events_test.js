import { EventParser } from "../../lego_serve/gateway/ui/static/app/events.js";
import { equal } from "./equal.js";

const TEXT =
  ': ping\r\n\r\nevent: patch\r\ndata: {"a":\r\ndata:  1}\r\nid: 7\r\n\r\nid: 8\ndata: zwölf\n\nretry: 5\rdata: x\r\rdata: cut';
const EVENTS = [
  { event: "patch", data: '{"a":\n 1}', id: "7" },
  { event: "message", data: "zwölf", id: "8" },
  { event: "message", data: "x", id: "8" },
];

Deno.test("events are the same wherever a text is cut", () => {
  for (let cut = 0; cut <= TEXT.length; cut++) {
    const parser = new EventParser();
    equal([...parser.push(TEXT.slice(0, cut)), ...parser.push(TEXT.slice(cut))], EVENTS);
  }
});

Deno.test("events are the same letter by letter", () => {
  const parser = new EventParser();
  equal([...TEXT].flatMap((letter) => parser.push(letter)), EVENTS);
});
