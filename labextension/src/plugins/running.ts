/**
 * Served models among what runs, in JupyterLab's Running panel.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { type IRunningSessions, IRunningSessionManagers } from '@jupyterlab/running';
import { Signal } from '@lumino/signaling';

import { icon } from '../icon';
import { tellError } from '../asking';
import { Commands, IServing } from '../tokens';
import { modelState } from '../words';

export const running: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_tfserve:running',
  description: 'The models that are served, among what runs.',
  autoStart: true,
  requires: [IServing],
  optional: [IRunningSessionManagers],
  activate: (app: JupyterFrontEnd, serving: IServing, managers: IRunningSessionManagers | null) => {
    if (!managers) {
      return; // Notebook 7 has them beside its tree of files only
    }
    const { actions, store, trans } = serving;
    const changed = new Signal<object, void>({});
    const said = (name: string) => modelState(trans, store.model(name)).words;
    // Samples are told each second, and change nothing here.
    let shown = '';
    store.changed.connect(() => {
      const now = store.names.map(name => `${name}: ${said(name)}`).join('\n');
      if (now !== shown) {
        shown = now;
        changed.emit();
      }
    });
    const stop = (name: string) =>
      actions.stopServing(name).catch(error => tellError(trans, trans.__('Stop serving'), error));
    const item = (name: string): IRunningSessions.IRunningItem => ({
      open: () => void app.commands.execute(Commands.show, { model: name }),
      shutdown: () => void stop(name),
      icon: () => icon,
      label: () => name,
      labelTitle: () => `${name}: ${said(name)}`,
      detail: () => said(name)
    });
    managers.add({
      name: trans.__('Served models'),
      running: () => store.names.map(item),
      shutdownAll: () => store.names.forEach(name => void stop(name)),
      refreshRunning: () => void store.refresh(),
      runningChanged: changed,
      supportsMultipleViews: false,
      shutdownLabel: trans.__('Stop serving'),
      shutdownAllLabel: trans.__('Stop serving all'),
      shutdownAllConfirmationText: trans.__('Stop serving all models? Their files stay.')
    });
  }
};
