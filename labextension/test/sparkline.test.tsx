/** Small pictures: as the notebook panel draws them. */
import { expect, it } from 'vitest';

import { paths } from '../src/sparkline';

it('draws a line from the left to the right', () => {
  expect(paths([0, 5, 10], 3)).toEqual({
    line: 'M0 26L60 14L120 2',
    area: 'M0 28L0 26L60 14L120 2L120 28Z'
  });
});

it('leaves gaps, and makes a dot of one second alone', () => {
  const { line, area } = paths([1, null, 1, 1], 4);
  expect(line).toBe('M0 2L0 2M80 2L120 2');
  expect(area).toBe('M80 28L80 2L120 2L120 28Z');
});

it('shows the last seconds only, at the right', () => {
  expect(paths([9, 1, 1], 2).line).toBe('M0 2L120 2');
  expect(paths([1, 1], 61).line).toBe('M118 2L120 2');
  expect(paths([], 60).line).toBe('');
  expect(paths([0, 0], 2).line).toBe('M0 26L120 26');
});
