/**
 * How requests are merged: the knobs, which act at once, and what is merged and why not. A field that is emptied goes back
 * to its default.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { useEffect, useRef, useState } from 'react';

import { useApp } from '../context';
import { Dim, css, Field, Menu, Mistake, useDoing } from '../parts';
import type { BatchingMode, BatchingRequest, ModelStatus } from '../types';

type Key = keyof BatchingRequest;

export function Batching({ status }: { status: ModelStatus }): JSX.Element {
  const { actions, trans } = useApp();
  const doing = useDoing();
  const { batching } = status;
  const set = (knobs: BatchingRequest) => doing.run(() => actions.setBatching(status.name, knobs));
  const field = (key: Key, label: string, title: string) => {
    const value = batching[key];
    return (
      <Knob
        label={label}
        title={title}
        placeholder={trans.__('default')}
        value={Array.isArray(value) ? value.join(', ') : String(value)}
        onSet={text => doing.run(() => actions.setBatching(status.name, { [key]: parsed(trans, key, text) }))}
      />
    );
  };
  const signatures = Object.keys(batching.signatures).sort(
    (one, other) => Number(other === 'serving_default') - Number(one === 'serving_default') || (one < other ? -1 : 1)
  );
  return (
    <>
      <div className={css('knobs')}>
        <Menu
          label={trans.__('Mode')}
          title={trans.__('on: requests are merged; auto: where rows were seen to be independent; off: none')}
          value={batching.mode}
          options={[
            ['on', trans.__('on')],
            ['auto', trans.__('auto')],
            ['off', trans.__('off')]
          ]}
          onChange={mode => set({ mode: mode as BatchingMode })}
        />
        {field('max_batch_size', trans.__('Max batch size'), trans.__('Rows of one run'))}
        {field(
          'batch_timeout_micros',
          trans.__('Window (µs)'),
          trans.__('How long a run waits for more; 0: it takes what is there')
        )}
        {field('num_batch_threads', trans.__('Threads'), trans.__('Runs of one signature at the same time'))}
        {field(
          'max_enqueued_batches',
          trans.__('Queue length'),
          trans.__('Full batches that may wait; what comes on top is refused')
        )}
        {field(
          'allowed_batch_sizes',
          trans.__('Allowed sizes'),
          trans.__('A run is padded to the next of these: 2, 4, 8')
        )}
        <label
          className={css('check')}
          title={trans.__('Requests of different lengths are padded to the longest and merged')}
        >
          <input
            type="checkbox"
            checked={batching.pad_variable_length_inputs}
            onChange={event => set({ pad_variable_length_inputs: event.target.checked })}
          />
          {trans.__('Pad variable lengths')}
        </label>
      </div>
      {signatures.map(name => (
        <Dim key={name}>
          {batching.signatures[name]
            ? trans.__('%1: not merged: %2', name, batching.signatures[name])
            : trans.__('%1: merged', name)}
        </Dim>
      ))}
      <Dim>{trans.__('It acts at once. An empty field means the default.')}</Dim>
      {doing.outcome}
    </>
  );
}

interface KnobProps {
  label: string;
  title: string;
  placeholder: string;
  value: string;
  onSet(text: string): Promise<boolean>;
}

/** A field that acts when it is left, or at Enter; what is typed is not overwritten meanwhile. */
function Knob({ label, title, placeholder, value, onSet }: KnobProps): JSX.Element {
  const [draft, setDraft] = useState<string | null>(null);
  const sent = useRef<string | null>(null);
  useEffect(() => {
    sent.current = null;
  }, [value]);
  const leave = async () => {
    if (draft === null || draft === sent.current) {
      return;
    }
    if (draft.trim() !== value) {
      sent.current = draft;
      await onSet(draft);
      sent.current = null;
    }
    setDraft(now => (now === draft ? null : now)); // what is so, also where it was refused
  };
  return (
    <Field label={label}>
      <input
        type="text"
        inputMode="numeric"
        autoComplete="off"
        title={title}
        placeholder={placeholder}
        value={draft ?? value}
        onChange={event => setDraft(event.target.value)}
        onBlur={leave}
        onKeyDown={event => {
          if (event.key === 'Enter') {
            void leave();
          } else if (event.key === 'Escape') {
            setDraft(null);
          }
        }}
      />
    </Field>
  );
}

/** What the API takes. Throws a Mistake for what is no number. */
export function parsed(trans: TranslationBundle, key: Key, text: string): number | number[] | null {
  const words = text.split(/[\s,]+/).filter(Boolean);
  if (!words.length) {
    return null;
  }
  const isList = key === 'allowed_batch_sizes';
  if (!words.every(word => /^\d+$/.test(word)) || (words.length > 1 && !isList)) {
    throw new Mistake(trans.__('“%1” is no whole number.', text), trans.__('An empty field goes back to the default.'));
  }
  return isList ? words.map(Number) : Number(words[0]);
}
