/**
 * One model: its state, its numbers, and the sections that are open.
 */
import { useId } from 'react';

import { useApp, useModel, useStore } from './context';
import { Numbers } from './numbers';
import { Action, css, Problem, Told, useDoing } from './parts';
import { type Section as SectionKind, SECTIONS } from './sections';
import type { ModelStatus } from './types';
import { modelState } from './words';

export function Detail({ name }: { name: string }): JSX.Element {
  const { actions, trans } = useApp();
  const status = useModel(name);
  const isStored = useStore(({ store }) => store.stored.includes(name));
  const doing = useDoing();
  return (
    <section className={css('detail')} aria-label={trans.__('Model %1', name)}>
      <h3>{name}</h3>
      <div role="status">
        {status || isStored ? (
          <Told said={modelState(trans, status)} />
        ) : (
          <Told said={{ words: trans.__('There is no model %1.', name), kind: 'none' }} />
        )}
      </div>
      {status ? (
        <>
          <Problem message={status.error} />
          <Numbers name={name} />
          {SECTIONS.map(section => (
            <Section key={section.id} section={section} status={status} />
          ))}
        </>
      ) : (
        isStored && (
          <Action
            title={trans.__('Serve this model of the store again')}
            onClick={() => doing.run(() => actions.serve(name))}
          >
            {trans.__('Serve')}
          </Action>
        )
      )}
      {doing.outcome}
    </section>
  );
}

function Section({ section, status }: { section: SectionKind; status: ModelStatus }): JSX.Element {
  const { trans, view } = useApp();
  const isOpen = useStore(({ view }) => view.isOpen(section.id));
  const id = useId();
  const title = section.title(trans);
  return (
    <section className={css('section')} aria-label={title}>
      <h4>
        <button type="button" aria-expanded={isOpen} aria-controls={id} onClick={() => view.toggle(section.id)}>
          {title}
        </button>
      </h4>
      <div id={id} hidden={!isOpen} className={css('section-body')}>
        {isOpen && <section.Body status={status} />}
      </div>
    </section>
  );
}
