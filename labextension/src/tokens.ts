/**
 * What the plugins share.
 */
import { Token } from '@lumino/coreutils';

import type { App } from './context';

export const IServing = new Token<Omit<App, 'changed'>>(
  'jupyter_tfserve:IServing',
  'What TensorFlow Serving serves: the store that knows it, and what can be done.'
);
export type IServing = Omit<App, 'changed'>;

/** The commands, by what they do. */
export const Commands = {
  show: 'tfserve:show',
  start: 'tfserve:start-server',
  stop: 'tfserve:stop-server',
  restart: 'tfserve:restart-server',
  log: 'tfserve:open-log',
  serveSavedModel: 'tfserve:serve-saved-model'
};
