/**
 * The sections of a model's detail, in the order of docs/panel.md.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import type { ModelStatus } from '../types';
import { Batching } from './batching';
import { Calls } from './calls';
import { Device } from './device';
import { Labels } from './labels';
import { Log } from './log';
import { Shares } from './shares';
import { TryIt } from './try_it';
import { Versions } from './versions';

export interface Section {
  /** What it is kept as in a workspace. */
  id: string;
  title(trans: TranslationBundle): string;
  Body(props: { status: ModelStatus }): JSX.Element;
}

export const SECTIONS: readonly Section[] = [
  { id: 'Versions', title: trans => trans.__('Versions'), Body: Versions },
  { id: 'Labels', title: trans => trans.__('Labels'), Body: Labels },
  { id: 'Batching', title: trans => trans.__('Batching'), Body: Batching },
  { id: 'Device', title: trans => trans.__('Device'), Body: Device },
  { id: 'Try it', title: trans => trans.__('Try it'), Body: TryIt },
  { id: 'Calls', title: trans => trans.__('Calls'), Body: Calls },
  { id: 'Shares', title: trans => trans.__('Shares'), Body: Shares },
  { id: 'Log', title: trans => trans.__('Log'), Body: Log }
];
