/** Events are found however the stream is cut. */
import { expect, it } from 'vitest';

import { EventParser } from '../src/sse';

const STREAM = ': connected\n\ndata: {"type":"model","model":"é"}\n\n: alive\n\ndata: a\ndata: b\n\ndata:c\r\n\r\n';
const EVENTS = ['{"type":"model","model":"é"}', 'a\nb', 'c'];

it('finds events', () => {
  expect(new EventParser().push(STREAM)).toEqual(EVENTS);
});

it.each(Array.from({ length: STREAM.length }, (_, at) => at))('finds them when it is cut at %d', at => {
  const parser = new EventParser();
  expect([...parser.push(STREAM.slice(0, at)), ...parser.push(STREAM.slice(at))]).toEqual(EVENTS);
});

it('finds them letter by letter', () => {
  const parser = new EventParser();
  expect([...STREAM].flatMap(letter => parser.push(letter))).toEqual(EVENTS);
});
