/**
 * What an answer or a request looks like: its shape, and whether it is pictures or the scores of classes. As the notebook
 * panel sees it (`kernel/panel/answer.py`).
 */

/** Pixels of a side that a picture has at least, and at most. */
const SMALLEST = 4;
const LARGEST = 2048;

/** Pictures side by side. */
export const MOST = 8;

/** The shape of nested lists of numbers; null where its parts differ, or are no numbers. */
export function shapeOf(value: unknown): number[] | null {
  if (!Array.isArray(value)) {
    return typeof value === 'number' || typeof value === 'boolean' ? [] : null;
  }
  let inner: number[] | null = null;
  for (const item of value) {
    const shape = shapeOf(item);
    if (!shape || (inner && inner.join() !== shape.join())) {
      return null;
    }
    inner = shape;
  }
  return inner && [value.length, ...inner];
}

/** Pixels of a picture, four bytes each. */
export interface Pixels {
  width: number;
  height: number;
  data: Uint8ClampedArray;
}

type Pixel = number | number[];

/** Pictures, where the value looks like a batch of them; [] else. */
export function pictures(value: unknown): Pixels[] {
  const shape = shapeOf(value);
  if (!shape || shape.length < 3 || shape.length > 4 || (shape.length === 4 && ![1, 3, 4].includes(shape[3]))) {
    return [];
  }
  if (![shape[1], shape[2]].every(side => side >= SMALLEST && side <= LARGEST)) {
    return [];
  }
  return (value as Pixel[][][]).slice(0, MOST).map(pixels);
}

/** Its values are 0 to 1, 0 to 255, or whatever there is between its least and largest. */
function pixels(picture: Pixel[][]): Pixels {
  const flat = picture.flat(2).map(Number);
  let [low, high] = [Infinity, -Infinity];
  for (const number of flat) {
    low = Math.min(low, number);
    high = Math.max(high, number);
  }
  if (low >= 0 && high <= 255) {
    // Fractions up to 1; few levels of grey, as in scikit-learn's digits (0 to 16); bytes.
    [low, high] = [0, high <= 1 ? 1 : high <= 16 ? high : 255];
  }
  const scale = 255 / (high - low || 1);
  const [width, height] = [picture[0].length, picture.length];
  const channels = flat.length / (width * height);
  const data = new Uint8ClampedArray(4 * width * height);
  for (let at = 0; at < width * height; at++) {
    const of = (channel: number) => (flat[at * channels + (channels > 1 ? channel : 0)] - low) * scale;
    data.set([of(0), of(1), of(2), channels === 4 ? of(3) : 255], 4 * at);
  }
  return { width, height, data };
}

/** Whether each row looks like the probabilities of classes. */
export function areScores(value: unknown): value is number[][] {
  const shape = shapeOf(value);
  return (
    shape?.length === 2 &&
    shape[0] > 0 &&
    shape[1] >= 2 &&
    (value as number[][]).every(
      row =>
        row.every(score => score >= 0 && score <= 1) && Math.abs(row.reduce((sum, score) => sum + score, 0) - 1) < 0.02
    )
  );
}

const MAGIC: [string, string][] = [
  ['\x89PNG', 'image/png'],
  ['\xff\xd8\xff', 'image/jpeg'],
  ['GIF8', 'image/gif']
];

/** A data URI for base64 of the bytes of a picture file; "" for other bytes. */
export function encodedPicture(text: unknown): string {
  if (typeof text !== 'string' || !/^[A-Za-z0-9+/]+=*$/.test(text)) {
    return '';
  }
  let head: string;
  try {
    head = atob(text.slice(0, 16));
  } catch {
    return '';
  }
  const kind = MAGIC.find(([magic]) => head.startsWith(magic))?.[1];
  return kind ? `data:${kind};base64,${text}` : '';
}

/** Pictures as files, where all items are these; null else. */
export function encodedPictures(value: unknown): string[] | null {
  const isBytes = (item: unknown) => typeof item === 'object' && item !== null && Object.keys(item).join() === 'b64';
  if (!Array.isArray(value) || !value.length || !value.every(isBytes)) {
    return null;
  }
  return value.slice(0, MOST).flatMap(item => encodedPicture(item.b64) || []);
}
