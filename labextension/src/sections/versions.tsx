/**
 * The versions of a model: their states, who made them, buttons that load and unload them, and the policy.
 */
import { memo, useEffect, useState } from 'react';

import { useApp } from '../context';
import { moment, size } from '../format';
import { Action, css, Dim, type Doing, Field, Form, Menu, Mistake, Problem, Told, useDoing } from '../parts';
import type { ModelStatus, Policy, VersionStatus } from '../types';
import {
  active,
  available,
  condition,
  descending,
  loadEffect,
  originWords,
  policyVersions,
  unloadEffect,
  versionState
} from '../words';
import { ask } from '../asking';

/** Rows; of more versions the newest are shown, and those that answer or failed. */
const ROWS = 12;

export function Versions({ status }: { status: ModelStatus }): JSX.Element {
  const { actions, settings, trans } = useApp();
  const doing = useDoing();
  const known = new Map(status.versions.map(version => [version.version, version]));
  const numbers = descending([...known.keys(), ...status.on_disk]);
  const shown = numbers
    .filter((number, at) => at < ROWS || condition(known.get(number)) !== 'not loaded')
    .slice(0, 2 * ROWS);
  const left = numbers.length - shown.length;
  const stop = async () => {
    const title = trans.__('Stop serving %1?', status.name);
    if (!settings.askBeforeStopping || (await ask(trans, title, stays(), trans.__('Stop serving')))) {
      await actions.stopServing(status.name);
    }
  };
  const stays = () => trans.__('%1 is not served any more; its files stay.', status.name);
  return (
    <>
      <ul className={css('rows')}>
        {shown.map(number => (
          <Row key={number} status={status} number={number} version={known.get(number)} doing={doing} />
        ))}
      </ul>
      <Dim>{left > 0 && trans.__('and %1 more, not loaded: “only these” loads them.', left)}</Dim>
      <PolicyForm status={status} doing={doing} />
      <Action onClick={() => doing.run(stop)} title={stays()}>
        {trans.__('Stop serving')}
      </Action>
      {doing.outcome}
    </>
  );
}

interface RowProps {
  status: ModelStatus;
  number: number;
  version: VersionStatus | undefined;
  doing: Doing;
}

const Row = memo(function Row({ status, number, version, doing }: RowProps): JSX.Element {
  const { actions, trans } = useApp();
  const is = condition(version);
  const labels = Object.keys(status.labels)
    .filter(label => status.labels[label] === number)
    .sort();
  let button: JSX.Element;
  if (is === 'failed') {
    button = (
      <Action
        title={trans.__('Load version %1 again', number)}
        onClick={() => doing.run(() => actions.serve(status.name))}
      >
        {trans.__('Load again')}
      </Action>
    );
  } else if (is === 'not loaded' || is === 'unloading') {
    button = (
      <Action
        title={trans.__('Load version %1', number)}
        disabled={is === 'unloading'}
        onClick={() => doing.run(() => actions.load(status, number))}
      >
        {trans.__('Load')}
      </Action>
    );
  } else {
    const last = active(status).every(one => one === number);
    button = (
      <Action
        title={trans.__('Unload version %1', number)}
        disabled={last}
        onClick={() => doing.run(() => actions.unload(status, number))}
      >
        {trans.__('Unload')}
      </Action>
    );
  }
  return (
    <li className={css('row')} aria-label={trans.__('Version %1', number)}>
      <div className={css('row-head')}>
        <b>{number}</b>
        <Told said={versionState(trans, is)} />
        <span className={css('chips')}>
          {labels.map(label => (
            <span key={label} className={css('chip')}>
              {label}
            </span>
          ))}
        </span>
        {button}
      </div>
      <Facts is={is} version={version} />
      <Effect status={status} number={number} is={is} />
      {version && <Problem message={version.error_message} remedy={version.error_remedy} />}
    </li>
  );
});

function Facts({ is, version }: { is: string; version: VersionStatus | undefined }): JSX.Element | null {
  const { trans } = useApp();
  if (!version) {
    return null;
  }
  const made = originWords(trans, version.origin);
  const load = version.load_seconds;
  const facts = [
    made && trans.__('made by %1', made),
    ['available', 'loading', 'failed'].includes(is) && trans.__('since %1', moment(version.since)),
    is === 'available' && load !== null && trans.__('loaded in %1 s', Number(load.toPrecision(2))),
    is === 'available' && version.idle && trans.__('idle: the next request loads it again'),
    size(version.memory),
    version.devices.join(', ')
  ];
  return <Dim>{facts.filter(Boolean).join(' · ')}</Dim>;
}

function Effect({ status, number, is }: { status: ModelStatus; number: number; is: string }): JSX.Element | null {
  const { trans } = useApp();
  if (is === 'not loaded') {
    return <Dim>{trans.__('Loaded: %1.', loadEffect(trans, status, number))}</Dim>;
  }
  if (is !== 'available') {
    return null;
  }
  if (available(status).length < 2) {
    return <Dim>{trans.__('The only one that is loaded: “Stop serving” below unloads it.')}</Dim>;
  }
  const effect = unloadEffect(trans, status, number);
  return <Dim>{effect && trans.__('Unloaded: %1.', effect)}</Dim>;
}

type PolicyKind = 'latest' | 'all' | 'specific';

interface Draft {
  kind: PolicyKind;
  count: string;
  which: string;
}

function PolicyForm({ status, doing }: { status: ModelStatus; doing: Doing }): JSX.Element {
  const { actions, trans } = useApp();
  const [draft, setDraft] = useState(() => drafted(status));
  const policy = JSON.stringify(status.policy);
  // A new policy is shown; what is typed stays while the policy does.
  useEffect(() => setDraft(drafted(status)), [policy]);
  const change = (some: Partial<Draft>) => setDraft({ ...draft, ...some });
  const apply = async () => {
    await actions.setPolicy(status.name, parsed(draft));
  };
  const parsed = ({ kind, count, which }: Draft): Policy => {
    if (kind === 'all') {
      return { all: {} };
    }
    if (kind === 'latest') {
      return { latest: { num_versions: Math.max(1, Number(count) || 1) } };
    }
    const words = which.split(/[\s,]+/).filter(Boolean);
    if (!words.length || !words.every(word => /^\d+$/.test(word))) {
      throw new Mistake(trans.__('“%1” is no list of versions.', which), trans.__('For example: 4, 3'));
    }
    return { specific: { versions: words.map(Number) } };
  };
  return (
    <Form onSubmit={() => doing.run(apply)}>
      <Menu
        label={trans.__('Serve')}
        title={trans.__('Which versions are served')}
        value={draft.kind}
        options={[
          ['latest', trans.__('the newest')],
          ['all', trans.__('all')],
          ['specific', trans.__('only these')]
        ]}
        onChange={kind => change({ kind: kind as PolicyKind })}
      />
      {draft.kind === 'latest' && (
        <Field label={trans.__('How many')}>
          <input
            type="number"
            min={1}
            max={1000}
            value={draft.count}
            onChange={event => change({ count: event.target.value })}
          />
        </Field>
      )}
      {draft.kind === 'specific' && (
        <Field label={trans.__('Versions')}>
          <input
            type="text"
            placeholder="4, 3"
            value={draft.which}
            onChange={event => change({ which: event.target.value })}
          />
        </Field>
      )}
      <Action title={trans.__('Serve these versions')}>{trans.__('Apply')}</Action>
    </Form>
  );
}

function drafted(status: ModelStatus): Draft {
  const { policy } = status;
  return {
    kind: policy.all ? 'all' : policy.specific ? 'specific' : 'latest',
    count: String(Math.max(1, policy.latest?.num_versions ?? 1)),
    which: policyVersions(status, policy).join(', ')
  };
}
