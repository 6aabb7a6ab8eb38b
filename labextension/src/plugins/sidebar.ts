/**
 * Puts the sidebar into the left area, where there is one: JupyterLab and Notebook 7.
 */
import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';

import { icon } from '../icon';
import { Sidebar } from '../sidebar';
import { Commands, IServing } from '../tokens';

export const sidebar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_tfserve:sidebar',
  description: 'The models that are served, in the left sidebar.',
  autoStart: true,
  requires: [IServing],
  optional: [ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    serving: IServing,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ) => {
    const { trans, view } = serving;
    const widget = new Sidebar(serving);
    app.shell.add(widget, 'left', { rank: 600, type: 'TensorFlow Serving' });
    restorer?.add(widget, 'jupyter-tfserve-sidebar');
    app.commands.addCommand(Commands.show, {
      label: trans.__('Show TensorFlow Serving'),
      caption: trans.__('Show the models that are served'),
      icon,
      execute: args => {
        if (typeof args.model === 'string') {
          view.model = args.model;
        }
        app.shell.activateById(widget.id);
        // A palette that closes gives the focus back to the main area.
        requestAnimationFrame(() => widget.activate());
      }
    });
    palette?.addItem({ command: Commands.show, category: trans.__('TensorFlow Serving') });
  }
};
