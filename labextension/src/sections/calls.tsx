/**
 * The calls of a model, to be copied.
 */
import { useEffect, useMemo, useRef, useState } from 'react';

import { calls } from '../calls';
import { useApp, useStore } from '../context';
import { Action, css, Dim, Menu, useDoing } from '../parts';
import type { ModelStatus } from '../types';

export function Calls({ status }: { status: ModelStatus }): JSX.Element {
  const { store, trans, trials } = useApp();
  const doing = useDoing();
  const text = useRef<HTMLPreElement>(null);
  const [language, setLanguage] = useState('curl');
  const server = useStore(app => app.store.server.info);
  const trial = useStore(app => app.trials.of(status.name));
  useEffect(() => {
    void doing.run(() => trials.need(status));
  }, [Object.keys(status.signatures).join('\n')]);
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
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(found[shown]);
      return trans.__('copied');
    } catch {
      // Without TLS a page may not write there.
      window.getSelection()?.selectAllChildren(text.current!);
      return trans.__('selected: copy it with the keyboard');
    }
  };
  return (
    <>
      <Menu
        label={trans.__('Language')}
        value={shown}
        options={languages.map(one => [one, one])}
        onChange={setLanguage}
      />
      <Action onClick={() => doing.run(copy)}>{trans.__('Copy')}</Action>
      {doing.outcome}
      <pre ref={text} className={css('code')} tabIndex={0} aria-label={trans.__('Call')}>
        {found[shown]}
      </pre>
    </>
  );
}
