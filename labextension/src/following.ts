/**
 * Follows what is served: reads the stream of events, and comes back when it breaks. Where there is no stream the
 * listener is told every few seconds that anything may have changed.
 */
import { Poll } from '@lumino/polling';

import type { Event } from './types';

/** Milliseconds before the stream is tried again: at first, and at most. */
const AGAIN = [500, 5000];

/** Milliseconds between two polls while there is no stream. */
const POLL = 3000;

export interface Source {
  events(stats: boolean, signal: AbortSignal): AsyncIterable<Event[]>;
}

export interface Listener {
  /** Something happened. */
  onEvents(events: Event[]): void;
  /** Anything may have. */
  onEverything(): Promise<void>;
}

export class Following {
  constructor(
    private readonly _source: Source,
    private readonly _listener: Listener
  ) {
    this._poll = new Poll({
      auto: false,
      name: 'jupyter_tfserve:following',
      factory: () => this._listener.onEverything(),
      frequency: { interval: POLL, backoff: false, max: POLL },
      standby: 'when-hidden'
    });
  }

  /** Begin, or go on with what is wanted now: "" for nothing. */
  want(what: '' | 'changes' | 'stats'): void {
    if (what === this._wanted) {
      return;
    }
    this._wanted = what;
    this._end?.abort();
    this._end = null;
    void this._poll.stop();
    if (what) {
      this._end = new AbortController();
      void this._read(what === 'stats', this._end.signal);
    }
  }

  dispose(): void {
    this.want('');
    this._poll.dispose();
  }

  private async _read(stats: boolean, ended: AbortSignal): Promise<void> {
    let wait = AGAIN[0];
    while (!ended.aborted) {
      void this._poll.start(); // the first one at once
      try {
        let streams = false;
        for await (const events of this._source.events(stats, ended)) {
          if (ended.aborted) {
            return;
          }
          if (!streams) {
            streams = true;
            wait = AGAIN[0];
            void this._poll.stop();
            void this._listener.onEverything(); // what changed before the stream began
          }
          if (events.length) {
            this._listener.onEvents(events);
          }
        }
      } catch {
        // `onEverything` meets the same trouble, and says it.
      }
      await sleep(wait, ended);
      wait = Math.min(2 * wait, AGAIN[1]);
    }
  }

  private _poll: Poll;
  private _wanted = '';
  private _end: AbortController | null = null;
}

function sleep(milliseconds: number, ended: AbortSignal): Promise<void> {
  return new Promise(done => {
    const timer = setTimeout(finish, milliseconds);
    function finish(): void {
      clearTimeout(timer);
      ended.removeEventListener('abort', finish);
      done();
    }
    ended.addEventListener('abort', finish);
  });
}
