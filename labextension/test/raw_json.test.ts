/** Numbers keep their text. */
import { expect, it } from 'vitest';

import { parse, python, stringify } from '../src/raw_json';

it.each([
  '{"instances": [[1.0, 2.50], [-3e-5, 9007199254740993]]}',
  '{"a": "1.0 and \\"2\\"", "b": [true, false, null, {}], "c": 2}',
  '[]',
  '"n5"'
])('comes back as it was: %s', text => {
  expect(stringify(parse(text))).toBe(text);
});

it('writes Python', () => {
  const text = '{"x": [1.0, 9007199254740993, true, null], "it\'s": "a \\"b\\""}';
  expect(python(parse(text))).toBe(`{'x': [1.0, 9007199254740993, True, None], "it's": 'a "b"'}`);
});

it('refuses what is no JSON', () => {
  expect(() => parse('{"a": 1,}')).toThrow(SyntaxError);
  expect(() => parse('[1.0.0]')).toThrow(SyntaxError);
});
