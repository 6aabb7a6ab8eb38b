/**
 * What all the other plugins share: the store, the settings, the translation. It asks nobody anything by itself.
 */
import type { JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { Actions } from '../actions';
import { Client } from '../client';
import { Settings } from '../settings';
import { Store } from '../store';
import { IServing } from '../tokens';
import { Trials } from '../trial';
import { View } from '../view';

const ID = 'jupyter_tfserve:plugin';

export const serving: JupyterFrontEndPlugin<IServing> = {
  id: ID,
  description: 'Knows what TensorFlow Serving serves.',
  autoStart: true,
  provides: IServing,
  optional: [ISettingRegistry, IStateDB, ITranslator],
  activate: (app, registry: ISettingRegistry | null, state: IStateDB | null, translator: ITranslator | null) => {
    const trans = (translator ?? nullTranslator).load('jupyter_tfserve');
    const client = new Client(app.serviceManager?.serverSettings ?? ServerConnection.makeSettings(), trans);
    const store = new Store(client);
    const settings = new Settings();
    const view = new View();
    const tell = (error: unknown) => console.error('jupyter_tfserve', error);
    registry?.load(ID).then(loaded => settings.use(loaded), tell);
    if (state) {
      view.restore(state).catch(tell);
    }
    return { store, actions: new Actions(store), trials: new Trials(client), view, settings, trans };
  }
};
