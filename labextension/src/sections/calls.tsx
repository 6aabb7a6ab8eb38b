/**
 * The calls of a model, to be copied.
 */
import { useEffect, useMemo, useRef, useState } from 'react';

import { calls } from '../calls';
import { useApp, useStore } from '../context';
import { copy } from '../copying';
import { Action, css, Dim, Menu, useDoing } from '../parts';
import type { ModelStatus } from '../types';
import { available } from '../words';

export function Calls({ status }: { status: ModelStatus }): JSX.Element {
  const { store, trans, trials } = useApp();
  const doing = useDoing();
  const text = useRef<HTMLPreElement>(null);
  const [language, setLanguage] = useState('curl');
  const server = useStore(app => app.store.server.info);
  const trial = useStore(app => app.trials.of(status.name));
  useEffect(() => {
    void doing.run(() => trials.need(status));
  }, [Object.keys(status.signatures).join('\n'), available(status)[0]]);
  const found = useMemo(
    () =>
      server
        ? calls({
            address: store.client.address,
            server,
            model: status.name,
            which: trial.which,
            body: trial.body,
            signatures: status.signatures
          })
        : {},
    [server, status, trial]
  );
  const languages = Object.keys(found);
  const shown = languages.includes(language) ? language : (languages[0] ?? '');
  if (!shown) {
    return <Dim>{trans.__('The model server does not run: there is no address.')}</Dim>;
  }
  return (
    <>
      <Menu
        label={trans.__('Language')}
        value={shown}
        options={languages.map(one => [one, one])}
        onChange={setLanguage}
      />
      <Action onClick={() => doing.run(() => copy(trans, text.current!))}>{trans.__('Copy')}</Action>
      {doing.outcome}
      <pre ref={text} className={css('code')} tabIndex={0} aria-label={trans.__('Call')}>
        {found[shown]}
      </pre>
    </>
  );
}
