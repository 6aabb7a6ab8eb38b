/** Numbers are written as Python writes them. */
import { expect, it } from 'vitest';

import { general, milliseconds, moment, size } from '../src/format';

it.each([
  [0, 3, '0'],
  [1, 3, '1'],
  [0.25, 3, '0.25'],
  [3.14159, 3, '3.14'],
  [999.6, 3, '1e+03'],
  [1234, 3, '1.23e+03'],
  [120, 3, '120'],
  [0.00001234, 3, '1.23e-05'],
  [-2.5, 3, '-2.5'],
  [Infinity, 3, 'inf']
])('%d to %d digits is %s', (value, digits, text) => {
  expect(general(value, digits)).toBe(text);
});

it('writes sizes', () => {
  expect([0, 999, 1000, 4_290_000, 80e9, null].map(size)).toEqual(['0 B', '999 B', '1 kB', '4.29 MB', '80 GB', '']);
});

it('writes latencies', () => {
  expect([0.134, 3.21, 1500, null].map(milliseconds)).toEqual(['134 µs', '3.21 ms', '1.5 s', '–']);
});

it('writes the day where it is not today', () => {
  const noon = new Date(2026, 4, 3, 12, 5).getTime() / 1000;
  expect(moment(noon, noon + 60)).toBe('12:05');
  expect(moment(noon, noon + 86400)).toBe('2026-05-03 12:05');
});
