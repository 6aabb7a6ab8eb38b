/**
 * The *try it* box: a request, filled with an example, and its answer as a picture.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { useEffect, useMemo, useState } from 'react';

import { Answer, Images } from '../answer';
import { ApiError } from '../client';
import { useApp, useStore } from '../context';
import { general } from '../format';
import { Action, Dim, Field, Form, Menu, Mistake, Problem, useDoing } from '../parts';
import { isLong, place, signaturesOf, type Trial } from '../trial';
import type { ModelStatus } from '../types';
import { available } from '../words';

/** Milliseconds that a request waits for a model server that is started again after a crash, and between two tries. */
const PATIENCE = 20_000;
const AGAIN = 300;

interface Answered {
  predictions: unknown;
  took: number;
}

export function TryIt({ status }: { status: ModelStatus }): JSX.Element {
  const { store, trans, trials } = useApp();
  const { name } = status;
  const trial = useStore(app => app.trials.of(name));
  const doing = useDoing();
  const [answered, setAnswered] = useState<Answered | null>(null);
  const signatures = signaturesOf(status);
  const places = placesOf(trans, status);
  const which = places.some(([key]) => key === trial.which) ? trial.which : '';
  useEffect(() => {
    void doing.run(() => trials.need(status));
  }, [signatures.join('\n'), available(status)[0]]);
  const send = async () => {
    setAnswered(null);
    check(trans, trial.body);
    const began = performance.now();
    const text = await patiently(() => store.client.predict(name, place(which), trial.body));
    const took = performance.now() - began;
    const answer = JSON.parse(text);
    setAnswered({ predictions: answer.predictions ?? answer.outputs, took });
  };
  return (
    <>
      <Form onSubmit={() => doing.run(send)}>
        <Menu
          label={trans.__('Signature')}
          value={trial.signature}
          options={signatures.map(one => [one, one])}
          onChange={signature => doing.run(() => trials.choose(status, signature))}
        />
        <Menu
          label={trans.__('Version')}
          value={which}
          options={places}
          onChange={value => trials.set(name, { which: value })}
        />
        <Action primary disabled={doing.busy} title={trans.__('Send the request')}>
          {trans.__('Send')}
        </Action>
      </Form>
      <Request name={name} trial={trial} />
      {trial.error && <Problem {...trial.error} />}
      <div role="status">
        {answered && (
          <>
            <Dim>{trans.__('Answer in %1 ms', general(answered.took, 3))}</Dim>
            <Answer value={answered.predictions} />
          </>
        )}
      </div>
      {doing.outcome}
    </>
  );
}

function Request({ name, trial }: { name: string; trial: Trial }): JSX.Element {
  const { trans, trials } = useApp();
  const { body } = trial;
  const isClosed = isLong(trial);
  const rows = useMemo(() => rowsOf(body), [body]);
  const shown = isClosed ? trans.__('%1 … (%2 characters)', body.slice(0, 400), body.length) : body;
  return (
    <>
      <Field label={trans.__('Request')}>
        <textarea
          rows={4}
          spellCheck={false}
          title={trans.__('The body of a predict request, as JSON')}
          readOnly={isClosed}
          value={shown}
          onChange={event => trials.write(name, event.target.value)}
        />
      </Field>
      {rows !== null && <Images value={rows} name={trans.__('request')} />}
    </>
  );
}

/** What a request asks about, where it can be read. */
function rowsOf(body: string): unknown {
  try {
    const { instances, inputs } = JSON.parse(body);
    const rows = instances ?? inputs ?? null;
    const columns = rows && !Array.isArray(rows) ? Object.values(rows) : [];
    return columns.length === 1 ? columns[0] : rows;
  } catch {
    return null;
  }
}

/** Throws a Mistake for what is no JSON object. */
function check(trans: TranslationBundle, text: string): void {
  const example = trans.__('For example: %1', '{"instances": [[1.0, 2.0]]}');
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new Mistake(trans.__('The request is not JSON: %1.', (error as Error).message), example);
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new Mistake(trans.__('The request is a JSON object.'), example);
  }
}

/** The default, the versions that answer, and the labels that lead to one of them. */
export function placesOf(trans: TranslationBundle, status: ModelStatus): [string, string][] {
  const answering = available(status);
  const labels = Object.keys(status.labels)
    .filter(label => answering.includes(status.labels[label]))
    .sort();
  return [
    ['', trans.__('default')],
    ...[...answering.map(String), ...labels].map((one): [string, string] => [one, one])
  ];
}

async function patiently(ask: () => Promise<string>): Promise<string> {
  const until = Date.now() + PATIENCE;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 503 && Date.now() < until)) {
        throw error;
      }
      await new Promise(done => setTimeout(done, AGAIN));
    }
  }
}
