/** The request of *Try it*: an example, until somebody writes. */
import { beforeEach, expect, it } from 'vitest';

import { place, signaturesOf, Trials } from '../src/trial';
import { Jupyter } from './jupyter';
import { model, version } from './models';

const EXAMPLE = 'GET api/models/digits/example?signature=serving_default';

let jupyter: Jupyter;
let trials: Trials;

const digits = model('digits', [version(1)]);

beforeEach(() => {
  jupyter = new Jupyter();
  // As text: JavaScript's numbers have no 1.0.
  jupyter.answers.set(EXAMPLE, () => new Response('{"signature": "serving_default", "body": {"instances": [1.0]}}'));
  trials = new Trials(jupyter.client);
});

it('is an example, written as the server wrote it', async () => {
  await trials.need(digits);
  expect(trials.of('digits')).toMatchObject({
    signature: 'serving_default',
    body: '{"instances": [1.0]}',
    error: null
  });
  await trials.need(digits);
  expect(jupyter.count(EXAMPLE)).toBe(1);
});

it('follows the version that answers until somebody writes', async () => {
  await trials.need(digits);
  await trials.need(model('digits', [version(2), version(1)]));
  expect(jupyter.count(EXAMPLE)).toBe(2);
  trials.write('digits', '{"instances": [5]}');
  await trials.need(model('digits', [version(3)]));
  expect(jupyter.count(EXAMPLE)).toBe(2);
  expect(trials.of('digits').body).toBe('{"instances": [5]}');
});

it('says why there is no example', async () => {
  jupyter.answers.delete(EXAMPLE);
  await trials.need(digits);
  expect(trials.of('digits').error).toEqual({ message: 'no such thing', remedy: 'ask for another' });
});

it('puts the default signature first', () => {
  const signatures = Object.fromEntries(['b', 'serving_default', 'a'].map(name => [name, { inputs: {}, outputs: {} }]));
  expect(signaturesOf(model('digits', [], { signatures }))).toEqual(['serving_default', 'a', 'b']);
});

it('knows where a version and a label answer', () => {
  expect(['', '3', 'stable', 'a/b'].map(place)).toEqual(['', '/versions/3', '/labels/stable', '/labels/a%2Fb']);
});
