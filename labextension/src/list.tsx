/**
 * The models: a button each, with the state, a sparkline of its requests, and their rate.
 */
import { memo, useEffect, useRef, useState } from 'react';

import { useApp, useModel, useSeries, useStore } from './context';
import { css, Dot } from './parts';
import { Sparkline } from './sparkline';
import { modelState } from './words';

export function List({ shown }: { shown: string }): JSX.Element {
  const { trans } = useApp();
  const names = useStore(({ store }) => store.names);
  const stored = useStore(({ store }) => store.stored);
  return (
    <ul className={css('list')} aria-label={trans.__('Models')}>
      {[...names, ...stored].map(name => (
        <li key={name}>
          <Entry name={name} isShown={name === shown} />
        </li>
      ))}
    </ul>
  );
}

const Entry = memo(function Entry({ name, isShown }: { name: string; isShown: boolean }): JSX.Element {
  const { trans, view } = useApp();
  const said = modelState(trans, useModel(name));
  const button = useRef<HTMLButtonElement>(null);
  const isInSight = useInSight(button);
  return (
    <button
      ref={button}
      type="button"
      className={css('entry')}
      aria-label={trans.__('%1: %2', name, said.words)}
      aria-current={isShown}
      onClick={() => {
        view.model = name;
      }}
    >
      <Dot kind={said.kind} />
      <span className={css('entry-name')}>
        <b title={name}>{name}</b>
        <span className={css('dim')}>{said.words}</span>
      </span>
      {isInSight && <Rate name={name} />}
    </button>
  );
});

/** Drawn each second, and nothing but it. */
function Rate({ name }: { name: string }): JSX.Element | null {
  const { trans } = useApp();
  const length = useStore(({ settings }) => settings.history);
  const series = useSeries(name);
  if (!series.length) {
    return null;
  }
  const last = series[series.length - 1]?.requests ?? 0;
  return (
    <span className={css('rate')}>
      <Sparkline values={series.map(sample => sample?.requests ?? 0)} length={length} label="" />
      <span>{trans.__('%1/s', last)}</span>
    </span>
  );
}

/** Whether an element is not scrolled away. */
function useInSight(element: React.RefObject<HTMLElement>): boolean {
  const [isInSight, setInSight] = useState(false);
  useEffect(() => {
    const observer = new IntersectionObserver(entries => setInSight(entries[entries.length - 1].isIntersecting));
    observer.observe(element.current!);
    return () => observer.disconnect();
  }, [element]);
  return isInSight;
}
