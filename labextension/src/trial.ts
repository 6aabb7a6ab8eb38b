/**
 * What is typed into *Try it*, model by model: the calls show the same request. An example is fetched when it is first
 * needed, and again when the signature or the version that answers changes while nobody has typed.
 */
import { type ISignal, Signal } from '@lumino/signaling';

import { ApiError, type Client } from './client';
import { type Json, parse, stringify } from './raw_json';
import type { ModelStatus } from './types';
import { available } from './words';

/** Characters of a request that can be edited; a longer one is sent as it is. */
const LONGEST = 100_000;

/** Replaced, never changed. */
export interface Trial {
  readonly signature: string;
  /** A version or a label; "" for the default. */
  readonly which: string;
  /** JSON. */
  readonly body: string;
  /** Whether somebody wrote it. */
  readonly isTyped: boolean;
  /** The version whose example it is, unless somebody wrote it. */
  readonly version: number | null;
  /** Why there is no example. */
  readonly error: { message: string; remedy: string } | null;
}

const EMPTY: Trial = { signature: '', which: '', body: '', isTyped: false, version: null, error: null };

export class Trials {
  constructor(private readonly _client: Client) {}

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  of(name: string): Trial {
    return this._trials.get(name) ?? EMPTY;
  }

  set(name: string, change: Partial<Trial>): void {
    this._trials.set(name, { ...this.of(name), ...change });
    this._changed.emit();
  }

  /** Somebody writes a request. */
  write(name: string, body: string): void {
    this.set(name, { body, isTyped: true, error: null });
  }

  /** See to it that there is an example of the signature that is chosen. */
  async need(status: ModelStatus): Promise<void> {
    const signatures = signaturesOf(status);
    const known = this.of(status.name);
    const signature = signatures.includes(known.signature) ? known.signature : (signatures[0] ?? '');
    const version = available(status)[0] ?? null;
    if (signature && (signature !== known.signature || (version !== known.version && !known.isTyped))) {
      await this.choose(status, signature);
    }
  }

  /** Fill in an example of a signature. */
  async choose(status: ModelStatus, signature: string): Promise<void> {
    const { name } = status;
    this.set(name, { signature, isTyped: false, version: available(status)[0] ?? null, error: null });
    let change: Partial<Trial>;
    try {
      const example = parse(await this._client.example(name, signature)) as { body: Json };
      change = { body: stringify(example.body) };
    } catch (error) {
      if (!(error instanceof ApiError)) {
        throw error;
      }
      change = { body: '', error: { message: error.message, remedy: error.remedy } };
    }
    if (this.of(name).signature === signature && !this.of(name).isTyped) {
      this.set(name, change);
    }
  }

  private _trials = new Map<string, Trial>();
  private _changed = new Signal<this, void>(this);
}

/** The default one first. */
export function signaturesOf(status: ModelStatus): string[] {
  const rank = (name: string) => (name === 'serving_default' ? `0${name}` : `1${name}`);
  return Object.keys(status.signatures).sort((one, other) => (rank(one) < rank(other) ? -1 : 1));
}

/** Too long to be edited. */
export function isLong(trial: Trial): boolean {
  return trial.body.length > LONGEST;
}

/** What stands behind a model for a version ("3"), a label ("stable") or neither (""). */
export function place(which: string): string {
  if (!which) {
    return '';
  }
  return /^\d+$/.test(which) ? `/versions/${which}` : `/labels/${encodeURIComponent(which)}`;
}
