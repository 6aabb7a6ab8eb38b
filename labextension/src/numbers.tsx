/**
 * The numbers of the last minute: requests, latency, queue time and batch sizes, each a small picture. The same as the
 * notebook panel's (`kernel/panel/numbers.py`).
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { useMemo } from 'react';

import { useApp, useSeries, useStore } from './context';
import { milliseconds } from './format';
import { Bars, Sparkline } from './sparkline';
import type { Sample } from './types';

type Series = readonly (Sample | null)[];

/** Seconds whose batch sizes are added up: a change of the knobs is to be seen soon. */
const RECENT = 10;

export function Numbers({ name }: { name: string }): JSX.Element {
  const { trans } = useApp();
  const length = useStore(({ settings }) => settings.history);
  const all = useSeries(name);
  const series = useMemo(() => all.slice(-length), [all, length]);
  if (!series.some(sample => sample !== null)) {
    return <div className="jp-jupyter-tfserve-dim">{trans.__('No requests in the last minute.')}</div>;
  }
  const last = series[series.length - 1];
  const line = (title: string, part: (sample: Sample) => number | null, now: string, none: number | null = null) => (
    <Figure title={title} last={now}>
      <Sparkline
        values={series.map(sample => (sample ? (part(sample) ?? none) : none))}
        length={length}
        label={`${title}: ${now}`}
      />
    </Figure>
  );
  const sizes = batchSizes(trans, series);
  return (
    <div className="jp-jupyter-tfserve-numbers">
      {line(trans.__('Requests/s'), sample => sample.requests, String(last?.requests ?? 0), 0)}
      {series.some(sample => sample?.errors) &&
        line(trans.__('Errors/s'), sample => sample.errors, String(last?.errors ?? 0), 0)}
      {line(trans.__('p50'), sample => sample.p50_ms, milliseconds(last?.p50_ms))}
      {line(trans.__('p99'), sample => sample.p99_ms, milliseconds(last?.p99_ms))}
      {line(trans.__('Queue time'), sample => sample.queue_ms, milliseconds(last?.queue_ms))}
      <Figure title={trans.__('Batch sizes')} last={sizes.last}>
        <Bars counts={sizes.counts} label={sizes.label} />
      </Figure>
    </div>
  );
}

/** Runs by rows in the last seconds, and what is said of them. */
export function batchSizes(
  trans: TranslationBundle,
  series: Series
): { counts: [string, number][]; last: string; label: string } {
  const sums = new Map<number, number>();
  for (const sample of series.slice(-RECENT)) {
    for (const [rows, runs] of Object.entries(sample?.batch_sizes ?? {})) {
      sums.set(Number(rows), (sums.get(Number(rows)) ?? 0) + runs);
    }
  }
  const counts = [...sums].sort(([one], [other]) => one - other);
  const ran = counts.filter(([, runs]) => runs);
  const runs = ran.reduce((sum, [, count]) => sum + count, 0);
  const words = ran.map(([rows, count]) => trans.__('%1 of %2', count, rows)).join(', ') || trans.__('none');
  return {
    counts: counts.map(([rows, count]) => [String(rows), count]),
    last: ran.length ? trans.__('up to %1', ran[ran.length - 1][0]) : '–',
    label: trans.__('Batch sizes, %1 runs in %2 s: %3', runs, RECENT, words)
  };
}

function Figure({ title, last, children }: { title: string; last: string; children: React.ReactNode }): JSX.Element {
  return (
    <figure>
      <figcaption>
        <span>{title}</span>
        <b>{last}</b>
      </figcaption>
      {children}
    </figure>
  );
}
