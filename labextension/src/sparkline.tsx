/**
 * Small pictures as inline SVG: a sparkline, and bars; the same as the notebook panel's (`kernel/panel/sparkline.py`).
 * They say what they show in words, and do not move.
 */
import { memo } from 'react';

const WIDTH = 120;
const HEIGHT = 28;

/** The outline of a sparkline and the area below it, as SVG paths. */
export function paths(values: readonly (number | null)[], length: number): { line: string; area: string } {
  const shown = values.slice(-length);
  const top = Math.max(0, ...shown.map(value => value ?? 0)) || 1;
  const step = WIDTH / Math.max(1, length - 1);
  const start = WIDTH - step * (shown.length - 1);
  let [line, area] = ['', ''];
  let run: string[] = [];
  for (let at = 0; at <= shown.length; at++) {
    const value = at < shown.length ? shown[at] : null;
    if (value !== null) {
      const x = start + at * step;
      const y = HEIGHT - 2 - ((HEIGHT - 4) * value) / top;
      run.push(`${tenths(x)} ${tenths(y)}`);
    } else if (run.length) {
      line += `M${(run.length > 1 ? run : [run[0], run[0]]).join('L')}`; // one second alone is a dot
      if (run.length > 1) {
        const [left, right] = [run[0].split(' ')[0], run[run.length - 1].split(' ')[0]];
        area += `M${left} ${HEIGHT}L${run.join('L')}L${right} ${HEIGHT}Z`;
      }
      run = [];
    }
  }
  return { line, area };
}

/** As exact as a pixel needs; many are drawn each second. */
function tenths(value: number): number {
  return Math.round(10 * value) / 10;
}

interface SparklineProps {
  /** One a second, the newest last; null is a gap. */
  values: readonly (number | null)[];
  length: number;
  /** What it shows in words; "" where that stands beside it. */
  label: string;
}

export const Sparkline = memo(function Sparkline({ values, length, label }: SparklineProps): JSX.Element {
  const { line, area } = paths(values, length);
  return (
    <Svg label={label}>
      <path className="jp-jupyter-tfserve-area" d={area} />
      <path className="jp-jupyter-tfserve-line" d={line} vectorEffect="non-scaling-stroke" />
    </Svg>
  );
});

interface BarsProps {
  /** What stands below each bar, and how high it is. */
  counts: readonly (readonly [string, number])[];
  label: string;
}

export const Bars = memo(function Bars({ counts, label }: BarsProps): JSX.Element {
  const top = Math.max(0, ...counts.map(([, count]) => count)) || 1;
  const width = WIDTH / Math.max(4, counts.length);
  return (
    <Svg label={label}>
      {counts.map(([key, count], at) => {
        const height = count ? Math.max(1, ((HEIGHT - 10) * count) / top) : 0;
        return (
          <g key={key}>
            <rect
              className="jp-jupyter-tfserve-column"
              x={at * width + 1}
              y={HEIGHT - 9 - height}
              width={width - 2}
              height={height}
            />
            <text x={(at + 0.5) * width} y={HEIGHT - 1} fontSize="8" textAnchor="middle" fill="currentColor">
              {key}
            </text>
          </g>
        );
      })}
    </Svg>
  );
});

function Svg({ label, children }: { label: string; children: React.ReactNode }): JSX.Element {
  const told = label ? { role: 'img', 'aria-label': label } : { 'aria-hidden': true };
  return (
    <svg
      {...told}
      className="jp-jupyter-tfserve-chart"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
      height={HEIGHT}
      preserveAspectRatio="none"
    >
      {label && <title>{label}</title>}
      {children}
    </svg>
  );
}
