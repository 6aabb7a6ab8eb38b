/**
 * The commands of the palette that are about the model server as a whole.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';

import { ask, tellError } from '../asking';
import { icon } from '../icon';
import { LogWidget } from '../log_widget';
import { Commands, IServing } from '../tokens';

export const commands: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_tfserve:commands',
  description: 'Commands that start and stop the model server, and show its log.',
  autoStart: true,
  requires: [IServing],
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, serving: IServing, palette: ICommandPalette | null) => {
    const { actions, settings, trans } = serving;
    const category = trans.__('TensorFlow Serving');

    const add = (command: string, label: string, execute: () => Promise<unknown>) => {
      app.commands.addCommand(command, {
        label,
        icon,
        execute: () => execute().catch(error => tellError(trans, label, error))
      });
      palette?.addItem({ command, category });
    };

    const agreed = async (title: string, yes: string) =>
      !settings.askBeforeStopping || ask(trans, title, trans.__('Requests are not answered until it runs again.'), yes);

    add(Commands.start, trans.__('Start the Model Server'), () => actions.server('start'));
    add(Commands.stop, trans.__('Stop the Model Server'), async () => {
      if (await agreed(trans.__('Stop the model server?'), trans.__('Stop'))) {
        await actions.server('stop');
      }
    });
    add(Commands.restart, trans.__('Restart the Model Server'), async () => {
      if (await agreed(trans.__('Restart the model server?'), trans.__('Restart'))) {
        await actions.server('restart');
      }
    });

    let log: LogWidget | null = null;
    add(Commands.log, trans.__('Show the Model Server’s Log'), async () => {
      if (!log || log.isDisposed) {
        log = new LogWidget(serving);
      }
      if (!log.isAttached) {
        app.shell.add(log, 'down');
      }
      app.shell.activateById(log.id);
    });
  }
};
