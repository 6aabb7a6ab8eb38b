/**
 * Small things that the sections are made of: dots, problems, buttons that work and say how it ended.
 */
import { useCallback, useEffect, useId, useRef, useState } from 'react';

import { useApp } from './context';
import { ApiError } from './client';
import type { Kind, Said } from './words';

const PREFIX = 'jp-jupyter-tfserve-';

/** Classes of ours. */
export function css(...names: (string | false | undefined)[]): string {
  return names.flatMap(name => (name ? [PREFIX + name] : [])).join(' ');
}

/** A state's dot; the word stands beside it. */
export function Dot({ kind }: { kind: Kind }): JSX.Element {
  return <span className={`${PREFIX}dot ${kind === 'none' ? '' : kind}`} aria-hidden="true" />;
}

/** A state: the dot and the words. */
export function Told({ said }: { said: Said }): JSX.Element {
  return (
    <span className={css('told')}>
      <Dot kind={said.kind} />
      {said.words}
    </span>
  );
}

/** Less important text. */
export function Dim({ children }: { children: React.ReactNode }): JSX.Element | null {
  return children ? <div className={css('dim')}>{children}</div> : null;
}

/** An error and what to do about it. */
export function Problem({ message, remedy = '' }: { message: string; remedy?: string }): JSX.Element | null {
  const { trans } = useApp();
  return message ? (
    <div className={css('bad')}>
      {message}
      {remedy && <div>{trans.__('What to do: %1', remedy)}</div>}
    </div>
  ) : null;
}

/** What is wrong with what was typed. */
export class Mistake extends Error {
  constructor(
    message: string,
    readonly remedy: string
  ) {
    super(message);
  }
}

export interface Doing {
  /** Whether something is under way. */
  busy: boolean;
  /** Do something; how it ends is shown in `outcome`. Resolves to whether it went well. */
  run(work: () => Promise<string | void>): Promise<boolean>;
  /** A live region: the error, or what `work` answered. */
  outcome: JSX.Element;
}

/** Work whose end is told, also to who does not see it. */
export function useDoing(): Doing {
  const { trans } = useApp();
  const [ended, setEnded] = useState<{ error?: { message: string; remedy: string }; words?: string }>({});
  const [busy, setBusy] = useState(0);
  const here = useRef(true);
  useEffect(() => {
    here.current = true;
    return () => {
      here.current = false;
    };
  }, []);
  const run = useCallback(
    async (work: () => Promise<string | void>) => {
      setBusy(count => count + 1);
      let end: typeof ended;
      try {
        end = { words: (await work()) || '' };
      } catch (error) {
        end = { error: { message: messageOf(error), remedy: remedyOf(error) } };
        if (!(error instanceof ApiError || error instanceof Mistake)) {
          console.error('jupyter_tfserve', error);
        }
      }
      if (here.current) {
        setBusy(count => count - 1);
        setEnded(end);
      }
      return !end.error;
    },
    [trans]
  );
  const outcome = (
    <div className={css('outcome')}>
      <div role="alert">{ended.error && <Problem {...ended.error} />}</div>
      <div role="status">{ended.words}</div>
    </div>
  );
  return { busy: busy > 0, run, outcome };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function remedyOf(error: unknown): string {
  return error instanceof ApiError || error instanceof Mistake ? error.remedy : '';
}

interface FieldProps {
  label: string;
  children: React.ReactElement;
}

/** A control with its label before it. */
export function Field({ label, children }: FieldProps): JSX.Element {
  return (
    <label className={css('field')}>
      <span>{label}</span>
      {children}
    </label>
  );
}

interface MenuProps {
  label: string;
  value: string;
  /** What each value is called. */
  options: readonly (readonly [string, string])[];
  onChange(value: string): void;
  title?: string;
  disabled?: boolean;
}

export function Menu({ label, value, options, onChange, ...more }: MenuProps): JSX.Element {
  return (
    <Field label={label}>
      <select value={value} onChange={event => onChange(event.target.value)} {...more}>
        {options.map(([key, name]) => (
          <option key={key} value={key}>
            {name}
          </option>
        ))}
      </select>
    </Field>
  );
}

interface ActionProps {
  children: string;
  /** What it is about, for a tooltip. */
  title?: string;
  disabled?: boolean;
  primary?: boolean;
  onClick?(): void;
}

/** A button; without `onClick` that of its form. One that is disabled keeps the focus that it has. */
export function Action({ children, onClick, primary, disabled = false, title }: ActionProps): JSX.Element {
  return (
    <button
      type={onClick ? 'button' : 'submit'}
      className={css('button', primary && 'primary')}
      title={title}
      aria-disabled={disabled}
      onClick={event => {
        if (disabled) {
          event.preventDefault();
        } else {
          onClick?.();
        }
      }}
    >
      {children}
    </button>
  );
}

/** Fields in a row that are sent together, by a button or by Enter. */
export function Form({ onSubmit, children }: { onSubmit(): void; children: React.ReactNode }): JSX.Element {
  return (
    <form
      className={css('form')}
      onSubmit={event => {
        event.preventDefault();
        onSubmit();
      }}
    >
      {children}
    </form>
  );
}

interface ComboProps {
  label: string;
  value: string;
  /** What may be chosen; anything else may be typed. */
  options: readonly string[];
  placeholder?: string;
  title?: string;
  onChange(value: string): void;
}

/** A field with suggestions. */
export function Combo({ label, value, options, onChange, ...more }: ComboProps): JSX.Element {
  const id = useId().replace(/:/g, ''); // its colons would have to be escaped in a selector
  return (
    <Field label={label}>
      <>
        <input
          type="text"
          list={id}
          value={value}
          spellCheck={false}
          autoComplete="off"
          onChange={event => onChange(event.target.value)}
          {...more}
        />
        <datalist id={id}>
          {options.map(option => (
            <option key={option} value={option} />
          ))}
        </datalist>
      </>
    </Field>
  );
}
