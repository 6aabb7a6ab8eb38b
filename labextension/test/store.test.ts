// @vitest-environment happy-dom
/** The store against a Jupyter Server whose answers the test writes. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { ApiError } from '../src/client';
import { LONGEST, Store } from '../src/store';
import { Jupyter } from './jupyter';
import { model, sample, server, version } from './models';

let jupyter: Jupyter;
let store: Store;

const digits = model('digits', [version(3)]);
const state = (models = [digits], stored: string[] = []) => ({ server, models, stored });

beforeEach(() => {
  jupyter = new Jupyter();
  jupyter.answers.set('GET api/state', state());
  jupyter.answers.set(`GET api/stats?seconds=${LONGEST}`, {
    time: 0,
    seconds: 2,
    samples: { digits: [null, sample(7)] }
  });
  store = new Store(jupyter.client);
});

afterEach(() => store.dispose());

it('asks nothing by itself', async () => {
  await new Promise(done => setTimeout(done, 100));
  expect(jupyter.asked).toEqual([]);
});

it('knows what is served, and what it did', async () => {
  store.follow('stats');
  await vi.waitFor(() => expect(store.rate).toBe(7));
  expect(store.names).toEqual(['digits']);
  expect(store.server.state).toBe('running');
  expect(store.series('digits')).toHaveLength(LONGEST);
  expect(store.series('digits').slice(-2)).toEqual([null, sample(7)]);
});

it('follows events, and asks only for what has changed', async () => {
  store.follow('changes');
  await vi.waitFor(() => expect(store.names).toEqual(['digits']));
  await store.refresh();
  const before = jupyter.count('GET api/state');
  const moved = { ...digits, labels: { stable: 3 } };
  jupyter.answers.set('GET api/models/digits', moved);
  jupyter.streams[0].send({ type: 'model', time: 1, model: 'digits', state: 'changed' });
  await vi.waitFor(() => expect(store.model('digits')).toEqual(moved));
  expect(jupyter.count('GET api/state')).toBe(before);
  expect(jupyter.count('GET api/events')).toBe(1);
});

it('keeps what is equal the same object', async () => {
  await store.refresh();
  const first = store.model('digits');
  jupyter.answers.set('GET api/state', state([structuredClone(digits), model('other', [])]));
  const names = store.names;
  await store.refresh();
  expect(store.model('digits')).toBe(first);
  expect(store.names).not.toBe(names);
});

it('takes samples second by second', async () => {
  store.follow('stats');
  await vi.waitFor(() => expect(store.rate).toBe(7));
  await store.refresh();
  let told = 0;
  store.changed.connect(() => told++);
  const quiet = store.series('quiet');
  jupyter.streams[0].send({ type: 'stats', time: 1, samples: { digits: sample(9), other: sample(1) } });
  await vi.waitFor(() => expect(store.rate).toBe(10));
  expect(store.series('digits').slice(-2)).toEqual([sample(7), sample(9)]);
  expect(store.series('other')).toHaveLength(LONGEST);
  expect(store.series('quiet')).toBe(quiet);
  expect(told).toBe(1);
});

it('forgets a model that is not served any more', async () => {
  store.follow('changes');
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(1));
  await store.refresh();
  jupyter.streams[0].send({ type: 'model', time: 1, model: 'digits', state: 'removed' });
  await vi.waitFor(() => expect(store.names).toEqual([]));
  expect(store.stored).toEqual(['digits']);
});

it('comes back when the stream ends', async () => {
  store.follow('changes');
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(1));
  jupyter.streams[0].close();
  jupyter.answers.set('GET api/state', state([model('new', [])]));
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(2), { timeout: 3000 });
  await vi.waitFor(() => expect(store.names).toEqual(['new']));
});

it('says that nobody answers, and when somebody does again', async () => {
  jupyter.answers.set('GET api/state', null);
  await store.refresh();
  expect(store.server.state).toBe('unreachable');
  jupyter.answers.set('GET api/state', state());
  await store.refresh();
  expect(store.server.state).toBe('running');
});

it('polls where there is no stream', async () => {
  jupyter.answers.set('GET api/events', new Response('', { status: 502 }));
  store.follow('changes');
  await vi.waitFor(() => expect(jupyter.count('GET api/state')).toBeGreaterThan(1), { timeout: 8000 });
}, 10_000);

it('has one stream however many follow, and none when nobody does', async () => {
  const sidebar = store.follow('stats');
  const bar = store.follow('stats');
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(1));
  sidebar.dispose();
  expect(jupyter.requests.some(request => request.signal.aborted)).toBe(false);
  bar.dispose();
  expect(jupyter.requests.find(request => request.url.includes('events'))!.signal.aborted).toBe(true);
  expect(jupyter.count('GET api/events?stats=true')).toBe(1);
});

it('leaves the stream while the page is hidden', async () => {
  store.follow('changes');
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(1));
  const hidden = vi.spyOn(document, 'hidden', 'get').mockReturnValue(true);
  document.dispatchEvent(new Event('visibilitychange'));
  expect(jupyter.requests.find(request => request.url.includes('events'))!.signal.aborted).toBe(true);
  hidden.mockRestore();
  document.dispatchEvent(new Event('visibilitychange'));
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(2));
});

it('shows its token to nobody', async () => {
  store.follow('stats');
  jupyter.answers.set('POST v1/models/digits/versions/3:predict', { predictions: [1] });
  expect(await store.client.predict('digits', '/versions/3', '{}')).toBe('{"predictions":[1]}');
  await vi.waitFor(() => expect(jupyter.streams).toHaveLength(1));
  for (const request of jupyter.requests) {
    expect(request.url).not.toContain('secret');
    expect(request.headers.get('Authorization')).toBe('token secret');
  }
});

it('tells a refusal with its remedy', async () => {
  const refused = await store.client.model('none').catch((error: ApiError) => error);
  expect(refused).toBeInstanceOf(ApiError);
  expect(refused).toMatchObject({ status: 404, message: 'no such thing', remedy: 'ask for another' });
  jupyter.answers.set('POST v1/models/none:predict', () => new Response('{"error": "No such model"}', { status: 404 }));
  await expect(store.client.predict('none', '', '{}')).rejects.toThrow('No such model');
});
