/** The words are those of docs/panel.md and of the notebook panel. */
import { describe, expect, it } from 'vitest';

import { batchSizes } from '../src/numbers';
import type { Server } from '../src/store';
import type { Share } from '../src/types';
import {
  labelEffect,
  listed,
  loadEffect,
  modelState,
  moveWords,
  originWords,
  serverState,
  shareWhat,
  shareWhen,
  shareWho,
  unloadEffect
} from '../src/words';
import { model, sample, trans, version } from './models';

const two = model('digits', [version(3), version(2)], { labels: { stable: 2 } });

describe('a model', () => {
  it.each([
    ['serving version 3', [version(3), version(2)]],
    ['serving version 3, loading version 4', [version(4, 'LOADING'), version(3)]],
    ['loading version 1', [version(1, 'START')]],
    ['failed', [version(1, 'END', { error_message: 'no such file' })]],
    ['not served', [version(1, 'END')]]
  ])('is %s', (words, versions) => {
    expect(modelState(trans, model('digits', versions)).words).toBe(words);
  });
});

describe('a label', () => {
  it.each([
    ['stable', 3, 'stable: 2 → 3; requests to /labels/stable go to version 3 at once.'],
    ['canary', 3, 'canary → 3; requests to /labels/canary are answered from then on.'],
    ['stable', null, 'stable is taken away from 2; requests to /labels/stable are refused from then on.'],
    ['stable', 2, 'stable is at 2 already.'],
    ['canary', null, 'There is no label canary.'],
    ['', 3, '']
  ])('%s to %s', (label, number, words) => {
    expect(labelEffect(trans, two, label, number)).toBe(words);
  });
});

describe('a version', () => {
  it('says what loading it does', () => {
    expect(loadEffect(trans, two, 1)).toBe('from then on just the versions 3, 2 and 1 are served');
    expect(loadEffect(trans, two, 4)).toBe(
      'from then on just the versions 4, 3 and 2 are served, and requests without a version go to 4'
    );
    expect(loadEffect(trans, model('digits', []), 4)).toBe(
      'from then on just the version 4 is served, and requests without a version go to 4'
    );
  });

  it('says what unloading it does', () => {
    expect(unloadEffect(trans, two, 3)).toBe('requests without a version go to version 2 then');
    expect(unloadEffect(trans, two, 2)).toBe('requests to /labels/stable are refused then');
    const labelled = { ...two, labels: { stable: 3, beta: 3 } };
    expect(unloadEffect(trans, labelled, 3)).toBe(
      'requests without a version go to version 2 then, and requests to /labels/beta and /labels/stable are refused then'
    );
  });

  it('says who made it', () => {
    expect(originWords(trans, { notebook: 'a/Train.ipynb', cell: 12, user: 'ann', time: 0 })).toBe(
      'Train.ipynb, cell 12 · ann'
    );
    expect(originWords(trans, { notebook: '', cell: 3, user: '', time: 0 })).toBe('cell 3');
    expect(originWords(trans, null)).toBe('');
  });
});

describe('the model server', () => {
  const said = (state: Server['state'], error: Server['error'] = null) =>
    serverState(trans, { state, info: null, error })?.words;

  it('is told in words', () => {
    expect(said('running')).toBeUndefined();
    expect(said('stopped')).toBe('The model server is stopped.');
    expect(said('restarting')).toBe('The model server is starting …');
    expect(said('unreachable')).toBe('The Jupyter Server does not answer. It is asked again every few seconds.');
  });
});

it('says the steps of a move', () => {
  const step = (state: string) =>
    moveWords(trans, { type: 'move', time: 0, device: 'gpu:0', state, error: 'full' }).words;
  expect(['loading', 'switched', 'draining', 'done', 'failed'].map(step)).toEqual([
    'loading on gpu:0 …',
    'switched to gpu:0',
    'draining where it was …',
    'on gpu:0',
    'Stayed where it was: full'
  ]);
});

it('says who may do what with a share', () => {
  const share: Share = {
    id: '1',
    kind: 'key',
    models: ['digits'],
    versions: [],
    labels: ['stable'],
    user: '',
    created: 0,
    expires: null,
    rate: 10,
    concurrency: null,
    note: '',
    last_used: null
  };
  expect(shareWho(trans, share)).toBe('whoever has the key');
  expect(shareWho(trans, { ...share, kind: 'user', user: 'ann' })).toBe('user ann');
  expect(shareWhat(trans, share)).toBe('digits, label stable, 10 requests/s');
  expect(shareWhen(trans, share, 100)).toBe('until revoked · not used yet');
  expect(shareWhen(trans, { ...share, expires: 50 }, 100)).toBe('expired · not used yet');
});

it('adds up the batch sizes of the last ten seconds', () => {
  const old = sample(1, { batch_sizes: { '64': 1 } });
  const series = [old, ...new Array(9).fill(null), sample(1, { batch_sizes: { '1': 3, '2': 0, '4': 10 } })];
  const { counts, last, label } = batchSizes(trans, series);
  expect(counts).toEqual([
    ['1', 3],
    ['2', 0],
    ['4', 10]
  ]);
  expect(last).toBe('up to 4');
  expect(label).toBe('Batch sizes, 13 runs in 10 s: 3 of 1, 10 of 4');
});

it('lists', () => {
  expect([[], [1], [1, 2], [1, 2, 3]].map(words => listed(trans, words))).toEqual(['', '1', '1 and 2', '1, 2 and 3']);
});
