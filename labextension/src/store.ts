/**
 * What is served, as this browser knows it: kept in step by the stream of events, told to whoever shows it by signals.
 * Statuses are replaced, never changed, and one that is equal stays the same object: what is shown is drawn again only
 * where it differs.
 */
import { JSONExt } from '@lumino/coreutils';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import { ApiError, type Client } from './client';
import { Following } from './following';
import type { Event, ModelStatus, Sample, ServerInfo, ServerState, Stats } from './types';

/** Milliseconds during which changes are gathered into one update, and between two fetches of everything. */
const GATHER = 30;
const PACE = 300;

/** Changed models that are fetched one by one; of more the whole state is. */
const FEW = 3;

/** Seconds that are kept: as many as the server does. */
export const LONGEST = 120;

/** "asking": nothing is known yet. "unreachable": nobody answers, or not as we expect. */
export interface Server {
  state: ServerState | 'asking' | 'unreachable';
  info: ServerInfo | null;
  error: ApiError | null;
}

const NOTHING: readonly (Sample | null)[] = [];

export class Store implements IDisposable {
  constructor(readonly client: Client) {
    this._following = new Following(client, {
      onEvents: events => this._put(events, false),
      onEverything: () => this.refresh()
    });
    document.addEventListener('visibilitychange', this._update);
  }

  /** Anything but a move. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** A step of a move of a model. */
  get moved(): ISignal<this, Event> {
    return this._moved;
  }

  get server(): Server {
    return this._server;
  }

  /** Names of the models that are served, sorted. */
  get names(): readonly string[] {
    return this._names;
  }

  /** Names of the models that the store on disk holds and that are not served. */
  get stored(): readonly string[] {
    return this._stored;
  }

  /** A served model. */
  model(name: string): ModelStatus | undefined {
    return this._models.get(name);
  }

  /** What a model did second by second, the newest last; [] for nothing in all of them. */
  series(name: string): readonly (Sample | null)[] {
    return this._history.get(name) ?? NOTHING;
  }

  /** Requests of all models in the last second. */
  get rate(): number {
    return this._rate;
  }

  /**
   * Follow what is served until the result is disposed of. A page that is not in sight does not: it would keep one of the
   * few connections that a browser has for a server.
   */
  follow(what: 'changes' | 'stats'): IDisposable {
    const counts = this._wants;
    counts[what]++;
    this._update();
    return new DisposableDelegate(() => {
      counts[what]--;
      this._update();
    });
  }

  /** Ask for everything. Ends when it is known, and never with an error: see `server`. */
  refresh(): Promise<void> {
    return this._put([], true);
  }

  /** What an action answered, at once, before the event comes. */
  told(status: ModelStatus): void {
    this._set(status.name, status);
    this._changed.emit();
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    document.removeEventListener('visibilitychange', this._update);
    this._following.dispose();
    Signal.clearData(this);
  }

  private _update = (): void => {
    const { stats, changes } = this._wants;
    this._following.want(document.hidden ? '' : stats ? 'stats' : changes ? 'changes' : '');
  };

  /** Samples are shown at once; what has to be fetched is gathered. */
  private _put(events: Event[], everything: boolean): Promise<void> {
    this._everything ||= everything;
    let sampled = false;
    for (const event of events) {
      if (event.type === 'stats') {
        this._sampled(event.samples ?? {});
        sampled = true;
      } else if (event.type === 'server') {
        this._everything = true;
      } else if (event.type !== 'refusal' && event.model) {
        this._dirty.add(event.model);
      }
      if (event.type === 'move') {
        this._moved.emit(event);
      }
    }
    if (sampled) {
      this._changed.emit();
    }
    if (!this._fetching && (this._everything || this._dirty.size)) {
      this._fetching = this._fetch().finally(() => (this._fetching = null));
    }
    return this._fetching ?? Promise.resolve();
  }

  private async _fetch(): Promise<void> {
    while ((this._everything || this._dirty.size) && !this._isDisposed) {
      await sleep(Math.max(GATHER, this._last + PACE - Date.now()));
      const everything = this._everything || this._dirty.size > FEW;
      const names = [...this._dirty];
      const history = this._everything;
      this._everything = false;
      this._dirty.clear();
      try {
        if (everything) {
          await this._fetchState(history);
          this._last = Date.now();
        } else {
          await Promise.all(names.map(name => this._fetchModel(name)));
        }
      } catch (error) {
        if (!(error instanceof ApiError)) {
          throw error;
        }
        this._server = { state: 'unreachable', info: null, error };
        this._rate = 0;
      }
      this._changed.emit();
    }
  }

  private async _fetchState(history: boolean): Promise<void> {
    const state = await this.client.state();
    const before = this._models;
    this._models = new Map();
    for (const model of state.models) {
      const known = before.get(model.name);
      this._models.set(model.name, known && equal(known, model) ? known : model);
    }
    this._name(state.stored);
    if (!equal(state.server, this._server.info)) {
      this._server = { state: state.server.state, info: state.server, error: null };
    }
    if (state.server.state !== 'running') {
      this._history.clear();
      this._rate = 0;
    } else if (history && this._wants.stats) {
      this._remember(await this.client.stats(LONGEST));
    }
  }

  private async _fetchModel(name: string): Promise<void> {
    try {
      this._set(name, await this.client.model(name));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) {
        throw error;
      }
      if (this._models.delete(name)) {
        this._name([...this._stored, name]);
      }
    }
  }

  private _set(name: string, status: ModelStatus): void {
    const known = this._models.get(name);
    if (!known || !equal(known, status)) {
      this._models.set(name, status);
      this._name(this._stored);
    }
  }

  private _name(stored: readonly string[]): void {
    const names = [...this._models.keys()].sort();
    const left = [...new Set(stored)].filter(name => !this._models.has(name)).sort();
    this._names = same(names, this._names) ? this._names : names;
    this._stored = same(left, this._stored) ? this._stored : left;
  }

  private _sampled(samples: Record<string, Sample>): void {
    this._rate = 0;
    for (const name of new Set([...this._history.keys(), ...Object.keys(samples)])) {
      const before = this._history.get(name) ?? new Array<null>(LONGEST).fill(null);
      const sample = samples[name] ?? null;
      this._rate += sample?.requests ?? 0;
      const series = [...before.slice(1), sample];
      if (series.some(one => one !== null)) {
        this._history.set(name, series);
      } else {
        this._history.delete(name);
      }
    }
  }

  private _remember(stats: Stats): void {
    this._history.clear();
    this._rate = 0;
    for (const [name, samples] of Object.entries(stats.samples)) {
      const missing = new Array<null>(Math.max(0, LONGEST - samples.length)).fill(null);
      this._history.set(name, [...missing, ...samples].slice(-LONGEST));
      this._rate += samples[samples.length - 1]?.requests ?? 0;
    }
  }

  private _following: Following;
  private _changed = new Signal<this, void>(this);
  private _moved = new Signal<this, Event>(this);
  private _server: Server = { state: 'asking', info: null, error: null };
  private _models = new Map<string, ModelStatus>();
  private _names: readonly string[] = [];
  private _stored: readonly string[] = [];
  private _history = new Map<string, readonly (Sample | null)[]>();
  private _rate = 0;
  private _wants = { changes: 0, stats: 0 };
  private _everything = false;
  private _dirty = new Set<string>();
  private _fetching: Promise<void> | null = null;
  private _last = 0;
  private _isDisposed = false;
}

function equal(one: unknown, other: unknown): boolean {
  return JSONExt.deepEqual(one as never, other as never);
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((name, at) => name === other[at]);
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise(done => setTimeout(done, milliseconds));
}
