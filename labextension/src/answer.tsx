/**
 * The answer of a model as a picture: an image where its shape looks like one, bars where it looks like scores of
 * classes, else a table.
 */
import { useEffect, useRef } from 'react';

import { useApp } from './context';
import { general } from './format';
import { css, Dim } from './parts';
import { areScores, encodedPictures, MOST, type Pixels, pictures } from './shape';

/** Rows and columns of a table, classes with a bar. */
const ROWS = 20;
const COLUMNS = 12;
const CLASSES = 10;

/** The JSON value of an output (`predictions` or `outputs`). */
export function Answer({ value, title = '' }: { value: unknown; title?: string }): JSX.Element {
  const { trans } = useApp();
  const columns = asColumns(value);
  if (columns) {
    return (
      <>
        {Object.entries(columns).map(([name, column]) => (
          <Answer key={name} value={column} title={name} />
        ))}
      </>
    );
  }
  const name = title || trans.__('answer');
  const areImages = (encodedPictures(value) ?? pictures(value)).length > 0;
  return (
    <div>
      <Dim>{title}</Dim>
      {areImages ? (
        <Images value={value} name={name} />
      ) : areScores(value) ? (
        value.slice(0, MOST).map((row, at) => <Scores key={at} row={row} number={value.length > 1 ? at : null} />)
      ) : (
        <Table value={value} name={name} />
      )}
    </div>
  );
}

/** Outputs by name, where there are several: rows of objects are turned. */
function asColumns(value: unknown): Record<string, unknown> | null {
  if (isPlain(value)) {
    return value;
  }
  if (!Array.isArray(value) || !value.length || !value.every(isPlain)) {
    return null;
  }
  const rows: Record<string, unknown>[] = value;
  const keys = [...new Set(rows.flatMap(row => Object.keys(row)))];
  return Object.fromEntries(keys.map(key => [key, rows.map(row => row[key] ?? null)]));
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !('b64' in value);
}

/** Pictures, where the value is or looks like a batch of them; nothing else. */
export function Images({ value, name }: { value: unknown; name: string }): JSX.Element {
  const files = encodedPictures(value);
  return (
    <div>
      {files
        ? files.map((uri, at) => <img key={at} className={css('image')} alt={`${name} ${at}`} src={uri} />)
        : pictures(value).map((picture, at) => <Picture key={at} picture={picture} name={`${name} ${at}`} />)}
    </div>
  );
}

function Picture({ picture, name }: { picture: Pixels; name: string }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { width, height, data } = picture;
  useEffect(() => {
    const image = new ImageData(new Uint8ClampedArray(data), width, height);
    canvas.current?.getContext('2d')?.putImageData(image, 0, 0);
  });
  // Small pictures are shown large enough to be seen.
  const grown = width < 96 ? { width: Math.max(1, Math.round(96 / width)) * width } : undefined;
  return (
    <canvas
      ref={canvas}
      role="img"
      aria-label={name}
      className={css('image')}
      width={width}
      height={height}
      style={grown}
    />
  );
}

function Scores({ row, number }: { row: number[]; number: number | null }): JSX.Element {
  const { trans } = useApp();
  const best = row
    .map((_, at) => at)
    .sort((one, other) => row[other] - row[one])
    .slice(0, CLASSES);
  const shown = row.length <= CLASSES ? [...best].sort((one, other) => one - other) : best;
  const words = trans.__('class %1 with %2', best[0], general(row[best[0]], 3));
  const left = row.length - shown.length;
  return (
    <>
      <table className={css('scores')} aria-label={number === null ? words : trans.__('row %1: %2', number, words)}>
        <tbody>
          {shown.map(index => (
            <tr key={index}>
              <th scope="row">{index}</th>
              <td>
                <span className={css('bar')} style={{ width: `${general(100 * row[index], 3)}%` }} />
              </td>
              <td className={css('number')}>{general(row[index], 3)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Dim>{left > 0 && trans.__('and %1 more classes', left)}</Dim>
    </>
  );
}

function Table({ value, name }: { value: unknown; name: string }): JSX.Element {
  const { trans } = useApp();
  const rows: unknown[] = Array.isArray(value) ? value : [value];
  const left = rows.length - ROWS;
  return (
    <>
      <div className={css('scroll')} tabIndex={0} role="group" aria-label={name}>
        <table className={css('table')} aria-label={name}>
          <tbody>
            {rows.slice(0, ROWS).map((row, at) => {
              const cells: unknown[] = Array.isArray(row) ? row : [row];
              return (
                <tr key={at}>
                  <th scope="row">{at}</th>
                  {cells.slice(0, COLUMNS).map((cell, column) => (
                    <td key={column}>{cellText(cell)}</td>
                  ))}
                  {cells.length > COLUMNS && <td>{trans.__('… %1 more', cells.length - COLUMNS)}</td>}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      <Dim>{left > 0 && trans.__('and %1 more rows', left)}</Dim>
    </>
  );
}

function cellText(value: unknown): string {
  if (typeof value === 'number' && !Number.isInteger(value)) {
    return general(value, 6);
  }
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
}
