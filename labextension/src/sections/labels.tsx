/**
 * The labels of a model, and the menu that moves them: what is going to happen is said before it does.
 */
import { useState } from 'react';

import { useApp } from '../context';
import { Action, Combo, css, Dim, Form, Menu, Mistake, useDoing } from '../parts';
import type { ModelStatus } from '../types';
import { available, labelEffect } from '../words';

export function Labels({ status }: { status: ModelStatus }): JSX.Element {
  const { actions, trans } = useApp();
  const doing = useDoing();
  const [typed, setTyped] = useState('');
  const [chosen, setChosen] = useState('');
  const label = typed.trim();
  const labels = Object.keys(status.labels).sort();
  const versions = available(status).map(String);
  const which = chosen === '0' || versions.includes(chosen) ? chosen : (versions[0] ?? '0');
  const version = which === '0' ? null : Number(which);
  const move = async () => {
    if (!label) {
      throw new Mistake(trans.__('A label has a name.'), trans.__('For example: stable'));
    }
    await actions.moveLabel(status.name, label, version);
  };
  return (
    <>
      {labels.length ? (
        <div>
          {labels.map(name => (
            <span key={name} className={css('chip')}>
              {`${name} → ${status.labels[name]}`}
            </span>
          ))}
        </div>
      ) : (
        <Dim>{trans.__('No label yet. A label is a name for a version that callers can use: /labels/stable.')}</Dim>
      )}
      <Form onSubmit={() => doing.run(move)}>
        <Combo
          label={trans.__('Label')}
          title={trans.__('One of the labels, or a new one')}
          placeholder="stable"
          value={typed}
          options={labels.length ? labels : ['stable', 'canary']}
          onChange={setTyped}
        />
        <Menu
          label={trans.__('to version')}
          value={which}
          options={[...versions.map(one => [one, one] as const), ['0', trans.__('no version')]]}
          onChange={setChosen}
        />
        <Action title={trans.__('Move the label')}>{trans.__('Apply')}</Action>
      </Form>
      <div role="status">{labelEffect(trans, status, label, version)}</div>
      {doing.outcome}
    </>
  );
}
