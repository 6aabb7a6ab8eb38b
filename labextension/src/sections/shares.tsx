/**
 * Who may predict with the model: the shares, and the form for a new one. An access key is shown this once.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { useEffect, useRef, useState } from 'react';

import { useApp } from '../context';
import { copy } from '../copying';
import { Action, css, Dim, Field, Form, Menu, Mistake, useDoing } from '../parts';
import { sharedLines, TIMES } from '../sharing';
import type { ModelStatus, NewShare, Share, ShareKind } from '../types';
import { shareWhat, shareWhen, shareWho } from '../words';

export function Shares({ status }: { status: ModelStatus }): JSX.Element {
  const { actions, store, trans } = useApp();
  const doing = useDoing();
  const [shares, setShares] = useState<Share[] | null>(null);
  const [kinds, setKinds] = useState<ShareKind[] | null>(null);
  const [made, setMade] = useState<NewShare | null>(null);
  const fetch = async () => {
    const found = await store.client.shares();
    setKinds(found.kinds);
    const ours = found.shares.filter(share => share.models.includes(status.name));
    setShares(ours.sort((one, other) => one.created - other.created));
  };
  useEffect(() => {
    void doing.run(fetch);
  }, []);
  const revoke = async (share: Share) => {
    await actions.revoke(share.id);
    setMade(now => (now?.share.id === share.id ? null : now));
    await fetch();
  };
  const share = async (kind: ShareKind, user: string, time: string) => {
    if (kind === 'user' && !user) {
      throw new Mistake(trans.__('A user has a name.'), trans.__('Write the name of a user of the Hub.'));
    }
    const request = { models: [status.name], kind, expires_in: TIMES[time] ?? null };
    setMade(await actions.share(kind === 'user' ? { ...request, user } : request));
    await fetch();
  };
  return (
    <>
      <ul className={css('rows')}>
        {shares?.map(one => (
          <li key={one.id} className={css('row')}>
            <div className={css('row-head')}>
              <b className={css('chips')}>{shareWho(trans, one)}</b>
              <Action
                title={trans.__('Revoke the share with %1', shareWho(trans, one))}
                onClick={() => doing.run(() => revoke(one))}
              >
                {trans.__('Revoke')}
              </Action>
            </div>
            <Dim>
              {[shareWhat(trans, one), shareWhen(trans, one, Date.now() / 1000), one.note].filter(Boolean).join(' · ')}
            </Dim>
          </li>
        ))}
      </ul>
      {shares?.length === 0 && <Dim>{trans.__('%1 is shared with nobody.', status.name)}</Dim>}
      {kinds && kinds.length > 0 && (
        <NewForm trans={trans} kinds={kinds} onShare={(...asked) => doing.run(() => share(...asked))} />
      )}
      {kinds?.length === 0 && (
        <Dim>{trans.__('Access keys are turned off on this server (%1).', 'TFServe.allow_access_keys')}</Dim>
      )}
      {doing.outcome}
      {made && <Made made={made} model={status.name} />}
    </>
  );
}

interface NewFormProps {
  trans: TranslationBundle;
  kinds: ShareKind[];
  onShare(kind: ShareKind, user: string, time: string): void;
}

function NewForm({ trans, kinds, onShare }: NewFormProps): JSX.Element {
  const who: Record<ShareKind, string> = {
    key: trans.__('whoever has a key'),
    link: trans.__('whoever opens a link'),
    user: trans.__('a user of the Hub')
  };
  const [kind, setKind] = useState(kinds[0]);
  const [user, setUser] = useState('');
  const [time, setTime] = useState('week');
  return (
    <Form onSubmit={() => onShare(kind, user.trim(), time)}>
      <Menu
        label={trans.__('Share with')}
        value={kind}
        options={kinds.map(one => [one, who[one]])}
        onChange={value => setKind(value as ShareKind)}
      />
      {kind === 'user' && (
        <Field label={trans.__('User')}>
          <input type="text" autoComplete="off" value={user} onChange={event => setUser(event.target.value)} />
        </Field>
      )}
      <Menu
        label={trans.__('for')}
        value={time}
        options={[
          ['hour', trans.__('an hour')],
          ['day', trans.__('a day')],
          ['week', trans.__('a week')],
          ['month', trans.__('a month')],
          ['ever', trans.__('for good')]
        ]}
        onChange={setTime}
      />
      <Action title={trans.__('Let them predict with this model, and nothing else')}>{trans.__('Share')}</Action>
    </Form>
  );
}

/** What to send to whom it is for. */
function Made({ made, model }: { made: NewShare; model: string }): JSX.Element {
  const { store, trans } = useApp();
  const doing = useDoing();
  const secret = useRef<HTMLPreElement>(null);
  return (
    <div className={css('made')}>
      {sharedLines(trans, made, store.client.address, model).map(({ words, text, isSecret }) => (
        <div key={words}>
          <Dim>{words}</Dim>
          <pre ref={isSecret ? secret : null} className={css('code')} tabIndex={0} aria-label={words}>
            {text}
          </pre>
          {isSecret && (
            <Action title={trans.__('Copy the key')} onClick={() => doing.run(() => copy(trans, secret.current!))}>
              {trans.__('Copy')}
            </Action>
          )}
        </div>
      ))}
      {doing.outcome}
    </div>
  );
}
