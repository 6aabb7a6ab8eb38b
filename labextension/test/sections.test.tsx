// @vitest-environment happy-dom
/** Sections as a browser has them: what they say, what they send, and that they leave alone what is typed. */
import { Signal } from '@lumino/signaling';
import { act } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { Actions } from '../src/actions';
import { AppProvider } from '../src/context';
import { Batching } from '../src/sections/batching';
import { Labels } from '../src/sections/labels';
import { Shares } from '../src/sections/shares';
import { Settings } from '../src/settings';
import { Store } from '../src/store';
import { Trials } from '../src/trial';
import { View } from '../src/view';
import { Jupyter } from './jupyter';
import { model, trans, version } from './models';

let jupyter: Jupyter;
let store: Store;
let root: Root;
let page: HTMLElement;

const digits = model('digits', [version(3), version(2)], { labels: { stable: 2 } });

beforeEach(() => {
  jupyter = new Jupyter();
  store = new Store(jupyter.client);
  page = document.body.appendChild(document.createElement('div'));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  store.dispose();
});

async function show(section: JSX.Element): Promise<void> {
  const app = {
    store,
    actions: new Actions(store),
    trials: new Trials(jupyter.client),
    view: new View(),
    settings: new Settings(),
    trans,
    changed: new Signal<object, void>({})
  };
  await act(async () => root.render(<AppProvider value={app}>{section}</AppProvider>));
}

/** The control in the label with these words. */
function field<Element extends HTMLElement>(words: string): Element {
  const label = [...page.querySelectorAll('label')].find(one => one.textContent!.startsWith(words))!;
  return label.querySelector('input, select, textarea')!;
}

async function type(control: HTMLInputElement | HTMLSelectElement, value: string): Promise<void> {
  await act(async () => {
    const kind = control instanceof HTMLSelectElement ? HTMLSelectElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, 'value')!.set!.call(control, value);
    control.dispatchEvent(new Event(control instanceof HTMLSelectElement ? 'change' : 'input', { bubbles: true }));
  });
}

it('says what moving a label does, and moves it', async () => {
  await show(<Labels status={digits} />);
  await type(field('Label'), 'stable');
  expect(page.textContent).toContain('stable: 2 → 3; requests to /labels/stable go to version 3 at once.');
  jupyter.answers.set('PATCH api/models/digits/labels', async (request: Request) => {
    expect(await request.json()).toEqual({ stable: 3 });
    return { ...digits, labels: { stable: 3 } };
  });
  await act(async () => page.querySelector('form')!.requestSubmit());
  await vi.waitFor(() => expect(store.model('digits')?.labels).toEqual({ stable: 3 }));
});

it('tells a label without a name', async () => {
  await show(<Labels status={digits} />);
  await act(async () => page.querySelector('form')!.requestSubmit());
  await vi.waitFor(() => expect(page.querySelector('[role=alert]')!.textContent).toContain('A label has a name.'));
  expect(page.querySelector('[role=alert]')!.textContent).toContain('What to do: For example: stable');
  expect(jupyter.asked).toEqual([]);
});

it('leaves alone what is typed while other knobs move', async () => {
  await show(<Batching status={digits} />);
  const size = field<HTMLInputElement>('Max batch size');
  await type(size, '12');
  const changed = { ...digits, batching: { ...digits.batching, num_batch_threads: 3 } };
  await show(<Batching status={changed} />);
  expect(field<HTMLInputElement>('Threads').value).toBe('3');
  expect(field('Max batch size')).toBe(size);
  expect(size.value).toBe('12');
});

it('sends a knob when its field is left, and goes back where it is refused', async () => {
  await show(<Batching status={digits} />);
  const size = field<HTMLInputElement>('Max batch size');
  const put = 'PUT api/models/digits/batching';
  jupyter.answers.set(
    put,
    () => new Response(JSON.stringify({ message: 'too large', remedy: 'less' }), { status: 400 })
  );
  await type(size, '99999999');
  await act(async () => size.dispatchEvent(new FocusEvent('focusout', { bubbles: true })));
  await vi.waitFor(() => expect(page.querySelector('[role=alert]')!.textContent).toContain('too large'));
  expect(size.value).toBe('1000');
  jupyter.answers.set(put, async (request: Request) => {
    expect(await request.json()).toEqual({ max_batch_size: null });
    return digits;
  });
  await type(size, '');
  await act(async () => size.dispatchEvent(new FocusEvent('focusout', { bubbles: true })));
  await vi.waitFor(() => expect(jupyter.count(put)).toBe(2));
  await vi.waitFor(() => expect(size.value).toBe('1000'));
});

it('does not take words for numbers', async () => {
  await show(<Batching status={digits} />);
  const size = field<HTMLInputElement>('Max batch size');
  await type(size, 'many');
  await act(async () => size.dispatchEvent(new FocusEvent('focusout', { bubbles: true })));
  await vi.waitFor(() => expect(page.querySelector('[role=alert]')!.textContent).toContain('is no whole number'));
  expect(jupyter.asked).toEqual([]);
});

it('offers what can be shared on this server', async () => {
  jupyter.answers.set('GET api/shares', { shares: [], kinds: ['link', 'user'] });
  await show(<Shares status={digits} />);
  await vi.waitFor(() => expect(page.querySelector('form')).not.toBeNull());
  const kinds = field<HTMLSelectElement>('Share with');
  expect([...kinds.options].map(one => one.value)).toEqual(['link', 'user']);
  await type(kinds, 'user');
  await act(async () => page.querySelector('form')!.requestSubmit());
  await vi.waitFor(() => expect(page.querySelector('[role=alert]')!.textContent).toContain('A user has a name.'));
  await type(field('User'), ' bob ');
  const share = { id: 'abc', kind: 'user', user: 'bob', models: ['digits'], versions: [], labels: [], created: 1 };
  jupyter.answers.set('POST api/shares', async (request: Request) => {
    expect(await request.json()).toEqual({ models: ['digits'], kind: 'user', user: 'bob', expires_in: 604800 });
    return { share: { ...share, expires: null, note: '', last_used: null }, key: '', accept_url: '' };
  });
  await act(async () => page.querySelector('form')!.requestSubmit());
  await vi.waitFor(() => expect(jupyter.count('GET api/shares')).toBe(2));
});

it('says where nothing can be shared', async () => {
  jupyter.answers.set('GET api/shares', { shares: [], kinds: [] });
  await show(<Shares status={digits} />);
  await vi.waitFor(() => expect(page.textContent).toContain('TFServe.allow_access_keys'));
  expect(page.querySelector('form')).toBeNull();
});
