/**
 * What is said about what is served, and what a change is going to do: the words of docs/panel.md, which the notebook
 * panel shares (`jupyter_tfserve/kernel/panel/words.py`). Nothing here asks anybody.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import { general, moment } from './format';
import type { Server } from './store';
import type { Event, ModelStatus, Origin, Policy, Share, VersionStatus } from './types';

/** What a state's dot looks like. */
export type Kind = 'good' | 'busy' | 'bad' | 'none';

/** A state in words, and its dot. */
export interface Said {
  words: string;
  kind: Kind;
}

/** The versions that answer, highest first. */
export function available(status: ModelStatus): number[] {
  return status.versions.filter(one => one.state === 'AVAILABLE').map(one => one.version);
}

/** The versions that answer or are on their way, highest first. */
export function active(status: ModelStatus): number[] {
  return status.versions.filter(one => ['START', 'LOADING', 'AVAILABLE'].includes(one.state)).map(one => one.version);
}

export type Condition = 'waiting' | 'loading' | 'available' | 'unloading' | 'not loaded' | 'failed';

/** A version's state; undefined is one that lies on the disk. */
export function condition(version: VersionStatus | undefined): Condition {
  switch (version?.state) {
    case 'START':
      return 'waiting';
    case 'LOADING':
      return 'loading';
    case 'AVAILABLE':
      return 'available';
    case 'UNLOADING':
      return 'unloading';
    default:
      return version?.error_message ? 'failed' : 'not loaded';
  }
}

/** A version's state in a word. */
export function versionState(trans: TranslationBundle, is: Condition): Said {
  switch (is) {
    case 'waiting':
      return { words: trans.__('waiting'), kind: 'busy' };
    case 'loading':
      return { words: trans.__('loading'), kind: 'busy' };
    case 'available':
      return { words: trans.__('available'), kind: 'good' };
    case 'unloading':
      return { words: trans.__('unloading'), kind: 'busy' };
    case 'failed':
      return { words: trans.__('failed'), kind: 'bad' };
    default:
      return { words: trans.__('not loaded'), kind: 'none' };
  }
}

/** A model's state in some words; undefined is one that is not served. */
export function modelState(trans: TranslationBundle, status: ModelStatus | undefined): Said {
  if (!status) {
    return { words: trans.__('not served'), kind: 'none' };
  }
  const answering = available(status);
  const loading = active(status).filter(version => !answering.includes(version));
  if (answering.length) {
    const serving = trans.__('serving version %1', answering[0]);
    return {
      words: loading.length ? trans.__('%1, loading version %2', serving, loading[0]) : serving,
      kind: 'good'
    };
  }
  if (loading.length) {
    return { words: trans.__('loading version %1', loading[0]), kind: 'busy' };
  }
  if (status.error || status.versions.some(version => condition(version) === 'failed')) {
    return { words: trans.__('failed'), kind: 'bad' };
  }
  return { words: trans.__('not served'), kind: 'none' };
}

/** What is to be said of the model server; null while it runs. */
export function serverState(trans: TranslationBundle, server: Server): Said | null {
  switch (server.state) {
    case 'running':
      return null;
    case 'asking':
      return { words: trans.__('Asking what is served …'), kind: 'busy' };
    case 'stopped':
      return { words: trans.__('The model server is stopped.'), kind: 'none' };
    case 'starting':
    case 'restarting':
      return { words: trans.__('The model server is starting …'), kind: 'busy' };
    case 'failed': {
      const why = server.info?.error || trans.__('The model server could not be started.');
      return { words: [why, server.info?.remedy].filter(Boolean).join(' '), kind: 'bad' };
    }
    default:
      return { words: unreachable(trans, server), kind: 'bad' };
  }
}

function unreachable(trans: TranslationBundle, { error }: Server): string {
  if (error?.status === 404) {
    return trans.__(
      'The Jupyter Server has no jupyter_tfserve. Install jupyter-tfserve where it runs, and start it again.'
    );
  }
  if (error && error.status >= 400 && error.status < 500) {
    return [error.message, error.remedy].filter(Boolean).join(' ');
  }
  return trans.__('The Jupyter Server does not answer. It is asked again every few seconds.');
}

/** What moving a label is going to do; "" for no label. */
export function labelEffect(
  trans: TranslationBundle,
  status: ModelStatus,
  label: string,
  version: number | null
): string {
  if (!label) {
    return '';
  }
  const before = status.labels[label] ?? null;
  if (before === version) {
    return version === null
      ? trans.__('There is no label %1.', label)
      : trans.__('%1 is at %2 already.', label, version);
  }
  if (version === null) {
    return trans.__('%1 is taken away from %2; requests to /labels/%1 are refused from then on.', label, before);
  }
  if (before === null) {
    return trans.__('%1 → %2; requests to /labels/%1 are answered from then on.', label, version);
  }
  return trans.__('%1: %2 → %3; requests to /labels/%1 go to version %3 at once.', label, before, version);
}

/** What loading a version is going to do. */
export function loadEffect(trans: TranslationBundle, status: ModelStatus, version: number): string {
  const served = descending([...active(status), version]);
  const words = trans._n(
    'from then on just the version %2 is served',
    'from then on just the versions %2 are served',
    served.length,
    listed(trans, served)
  );
  return version === served[0] ? trans.__('%1, and requests without a version go to %2', words, version) : words;
}

/** What unloading a version is going to do; "" for one whose absence nobody notices. */
export function unloadEffect(trans: TranslationBundle, status: ModelStatus, version: number): string {
  const left = available(status).filter(one => one !== version);
  const words: string[] = [];
  if (left.length && version > left[0]) {
    words.push(trans.__('requests without a version go to version %1 then', left[0]));
  }
  const labels = Object.keys(status.labels)
    .filter(label => status.labels[label] === version)
    .sort();
  if (labels.length) {
    const where = listed(
      trans,
      labels.map(label => `/labels/${label}`)
    );
    words.push(trans.__('requests to %1 are refused then', where));
  }
  return words.length === 2 ? trans.__('%1, and %2', ...words) : words.join('');
}

/** The versions that a policy names, or else those that are served now. */
export function policyVersions(status: ModelStatus, policy: Policy): number[] {
  return descending(policy.specific ? policy.specific.versions : active(status));
}

/** Who made a version; "" where it is not known. */
export function originWords(trans: TranslationBundle, origin: Origin | null): string {
  if (!origin) {
    return '';
  }
  const notebook = origin.notebook.split('/').pop() ?? '';
  const cell = origin.cell === null ? '' : trans.__('cell %1', origin.cell);
  return [[notebook, cell].filter(Boolean).join(', '), origin.user].filter(Boolean).join(' · ');
}

/** A step of a move. */
export function moveWords(trans: TranslationBundle, event: Event): Said {
  switch (event.state) {
    case 'loading':
      return { words: trans.__('loading on %1 …', event.device), kind: 'busy' };
    case 'switched':
      return { words: trans.__('switched to %1', event.device), kind: 'good' };
    case 'draining':
      return { words: trans.__('draining where it was …'), kind: 'busy' };
    case 'done':
      return { words: trans.__('on %1', event.device), kind: 'good' };
    default:
      return { words: trans.__('Stayed where it was: %1', event.error ?? ''), kind: 'bad' };
  }
}

/** For whom a share is. */
export function shareWho(trans: TranslationBundle, share: Share): string {
  switch (share.kind) {
    case 'key':
      return trans.__('whoever has the key');
    case 'link':
      return trans.__('whoever opens the link');
    default:
      return trans.__('user %1', share.user);
  }
}

/** What a share lets them ask. */
export function shareWhat(trans: TranslationBundle, share: Share): string {
  return [
    listed(trans, share.models),
    share.versions.length ? trans.__('version %1', listed(trans, share.versions)) : '',
    share.labels.length ? trans.__('label %1', listed(trans, share.labels)) : '',
    share.rate ? trans.__('%1 requests/s', general(share.rate, 6)) : '',
    share.concurrency ? trans.__('%1 at once', share.concurrency) : ''
  ]
    .filter(Boolean)
    .join(', ');
}

/** Until when, and when it was last used. `now` is in seconds. */
export function shareWhen(trans: TranslationBundle, share: Share, now: number): string {
  let ends = trans.__('until revoked');
  if (share.expires !== null) {
    ends = share.expires <= now ? trans.__('expired') : trans.__('until %1', moment(share.expires, now));
  }
  const used = share.last_used ? trans.__('last used %1', moment(share.last_used, now)) : trans.__('not used yet');
  return `${ends} · ${used}`;
}

/** "a, b and c". */
export function listed(trans: TranslationBundle, words: readonly (string | number)[]): string {
  const last = words[words.length - 1] ?? '';
  return words.length > 1 ? trans.__('%1 and %2', words.slice(0, -1).join(', '), last) : String(last);
}

/** Without doubles, highest first. */
export function descending(versions: readonly number[]): number[] {
  return [...new Set(versions)].sort((one, other) => other - one);
}
