/**
 * *Serve this SavedModel*: in the file browser's menu of a directory that holds saved_model.pb, and in the palette for the
 * directory that is selected or open there.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { type FileBrowser, IDefaultFileBrowser, IFileBrowserFactory } from '@jupyterlab/filebrowser';
import type { Contents } from '@jupyterlab/services';

import { tellError } from '../asking';
import { ApiError } from '../client';
import { icon } from '../icon';
import { askHowToServe } from '../saved_model_dialog';
import { Commands, IServing } from '../tokens';

/** What makes a directory a SavedModel. */
const FILE = 'saved_model.pb';

export const files: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_tfserve:files',
  description: 'Serves a SavedModel from the file browser.',
  autoStart: true,
  requires: [IServing],
  optional: [IFileBrowserFactory, IDefaultFileBrowser, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    serving: IServing,
    factory: IFileBrowserFactory | null,
    defaultBrowser: IDefaultFileBrowser | null,
    palette: ICommandPalette | null
  ) => {
    if (!factory) {
      return;
    }
    const { tracker } = factory;
    const { trans } = serving;
    const { contents } = app.serviceManager;
    const label = trans.__('Serve this SavedModel');

    const holds = async (path: string): Promise<boolean> => {
      if (contents.driveName(path)) {
        return false; // not on the Jupyter Server's disk
      }
      const found: Contents.IModel = await contents.get(path);
      return found.type === 'directory' && found.content.some((item: Contents.IModel) => item.name === FILE);
    };

    // The menu opens at once, and the Jupyter Server is asked meanwhile: where the answer is yes, the entry appears.
    let pointed = '';
    let isSavedModel = false;
    const isBrowser = (browser: FileBrowser, event: MouseEvent) => browser.node.contains(event.target as Node);
    document.addEventListener(
      'contextmenu',
      event => {
        const browser = tracker.find(one => isBrowser(one, event));
        const item = browser?.modelForClick(event);
        pointed = item?.type === 'directory' ? item.path : '';
        isSavedModel = false;
        if (pointed) {
          const path = pointed;
          void holds(path)
            .catch(() => false)
            .then(found => {
              if (found && path === pointed) {
                isSavedModel = true;
                app.contextMenu.menu.update();
              }
            });
        }
      },
      true
    );

    /** What is selected in the file browser, else what is open there. */
    const chosen = (): string | undefined => {
      const browser = tracker.currentWidget ?? defaultBrowser;
      const selected = browser ? [...browser.selectedItems()].find(item => item.type === 'directory') : undefined;
      return selected?.path ?? browser?.model.path;
    };

    const serve = async (path: string | undefined) => {
      if (path === undefined || !(await holds(path))) {
        throw new ApiError(
          0,
          trans.__('The directory %1 holds no %2.', path || '/', FILE),
          trans.__('Select a directory with a SavedModel in the file browser.')
        );
      }
      const local = contents.localPath(path);
      const asked = await askHowToServe(trans, local);
      if (asked) {
        const { name } = await serving.store.client.serveSavedModel({ path: local, ...asked });
        await serving.store.refresh();
        await app.commands.execute(Commands.show, { model: name });
      }
    };

    app.commands.addCommand(Commands.serveSavedModel, {
      label,
      caption: trans.__('Serve the SavedModel in this directory'),
      icon,
      isVisible: args => args.isMenu !== true || isSavedModel,
      execute: args => {
        const path = typeof args.path === 'string' ? args.path : args.isMenu === true ? pointed : chosen();
        return serve(path).catch(error => tellError(trans, label, error));
      }
    });
    palette?.addItem({ command: Commands.serveSavedModel, category: trans.__('TensorFlow Serving') });
    app.contextMenu.addItem({
      command: Commands.serveSavedModel,
      args: { isMenu: true },
      selector: '.jp-DirListing-item[data-isdir="true"]',
      rank: 4
    });
  }
};
