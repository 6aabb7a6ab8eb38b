/**
 * What every component of the sidebar can reach, and the hooks that draw it again when something it shows has changed.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ISignal } from '@lumino/signaling';
import { createContext, useContext, useSyncExternalStore } from 'react';

import type { Actions } from './actions';
import type { Settings } from './settings';
import type { Store } from './store';
import type { Trials } from './trial';
import type { ModelStatus, Sample } from './types';
import type { View } from './view';

export interface App {
  store: Store;
  actions: Actions;
  trials: Trials;
  view: View;
  settings: Settings;
  trans: TranslationBundle;
  /** Something has changed, and it is in sight. */
  changed: ISignal<unknown, void>;
}

const Context = createContext<App | null>(null);

export const AppProvider = Context.Provider;

export function useApp(): App {
  const app = useContext(Context);
  if (!app) {
    throw new Error('Not inside of the sidebar');
  }
  return app;
}

/** What `read` gives, now and after each change; drawn again only where that is another object. */
export function useStore<Value>(read: (app: App) => Value): Value {
  const app = useApp();
  return useSyncExternalStore(
    told => {
      app.changed.connect(told);
      return () => {
        app.changed.disconnect(told);
      };
    },
    () => read(app)
  );
}

export function useModel(name: string): ModelStatus | undefined {
  return useStore(({ store }) => store.model(name));
}

export function useSeries(name: string): readonly (Sample | null)[] {
  return useStore(({ store }) => store.series(name));
}
