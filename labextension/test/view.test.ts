/** What a user has chosen is kept, and taken up again. */
import type { IStateDB } from '@jupyterlab/statedb';
import { expect, it } from 'vitest';

import { View } from '../src/view';

function database(): IStateDB {
  const kept = new Map<string, unknown>();
  return {
    fetch: async (key: string) => kept.get(key),
    save: async (key: string, value: unknown) => void kept.set(key, structuredClone(value))
  } as unknown as IStateDB;
}

it('begins with the versions', () => {
  const view = new View();
  expect(['Versions', 'Labels'].map(section => view.isOpen(section))).toEqual([true, false]);
  expect(view.model).toBe('');
});

it('is the same after a reload', async () => {
  const state = database();
  const view = new View();
  await view.restore(state);
  view.model = 'digits';
  view.toggle('Labels');
  view.toggle('Versions');
  const again = new View();
  let told = 0;
  again.changed.connect(() => told++);
  await again.restore(state);
  expect(again.model).toBe('digits');
  expect(['Versions', 'Labels'].map(section => again.isOpen(section))).toEqual([false, true]);
  expect(told).toBe(1);
});

it('does not stumble over what somebody else kept', async () => {
  const state = database();
  await state.save('jupyter_tfserve:view', { model: 3, open: 'all' });
  const view = new View();
  await view.restore(state);
  expect(view.model).toBe('');
});
