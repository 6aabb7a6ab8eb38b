/** What an answer looks like. */
import { expect, it } from 'vitest';

import { areScores, encodedPictures, pictures, shapeOf } from '../src/shape';

const square = (value: unknown) => new Array(4).fill(new Array(4).fill(value));

it('finds shapes', () => {
  expect(shapeOf([[1, 2, 3]])).toEqual([1, 3]);
  expect(shapeOf([[1], [1, 2]])).toBeNull();
  expect(shapeOf(['a'])).toBeNull();
  expect(shapeOf(1)).toEqual([]);
});

it('finds pictures, and how bright they are', () => {
  expect(pictures([square(0.5)])[0].data.slice(0, 4)).toEqual(new Uint8ClampedArray([128, 128, 128, 255]));
  expect(pictures([square(16)])[0].data[0]).toBe(255);
  expect(pictures([square(51)])[0].data[0]).toBe(51);
  expect(pictures([square([255, 0, 51])])[0].data.slice(0, 4)).toEqual(new Uint8ClampedArray([255, 0, 51, 255]));
  expect(pictures([[1, 2]])).toEqual([]);
  expect(pictures([square([1, 2])])).toEqual([]);
});

it('finds scores of classes', () => {
  expect(areScores([[0.2, 0.8]])).toBe(true);
  expect(areScores([[0.2, 0.9]])).toBe(false);
  expect(areScores([[1]])).toBe(false);
});

it('finds files of pictures', () => {
  const png = btoa('\x89PNG\r\n\x1a\nabc');
  expect(encodedPictures([{ b64: png }])).toEqual([`data:image/png;base64,${png}`]);
  expect(encodedPictures([{ b64: btoa('<svg onload=alert(1)>') }])).toEqual([]);
  expect(encodedPictures([1])).toBeNull();
});
