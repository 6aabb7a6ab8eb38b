/**
 * The status bar says how many models are served and how many requests a second they answer; pressed it shows the sidebar.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';

import { Commands, IServing } from '../tokens';

class Item extends ReactWidget {
  constructor(
    private readonly _serving: IServing,
    private readonly _onPressed: () => void
  ) {
    super();
    this.addClass('jp-jupyter-tfserve-status');
  }

  dispose(): void {
    this._leave();
    super.dispose();
  }

  protected render(): JSX.Element {
    const { store, trans } = this._serving;
    return (
      <UseSignal signal={store.changed} shouldUpdate={() => this._words() !== this._shown}>
        {() => (
          <button type="button" title={trans.__('Show the models that are served')} onClick={this._onPressed}>
            {(this._shown = this._words())}
          </button>
        )}
      </UseSignal>
    );
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._follow();
  }

  protected onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._follow();
    }
  }

  protected onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._leave();
  }

  protected onBeforeDetach(message: Message): void {
    this._leave();
    super.onBeforeDetach(message);
  }

  private _follow(): void {
    this._followed ??= this._serving.store.follow('stats');
  }

  private _leave(): void {
    this._followed?.dispose();
    this._followed = null;
  }

  private _words(): string {
    const { store, trans } = this._serving;
    if (store.server.state !== 'running') {
      return trans.__('no model server');
    }
    const models = trans._n('%1 model', '%1 models', store.names.length);
    return trans.__('%1, %2 requests/s', models, store.rate);
  }

  private _shown = '';
  private _followed: IDisposable | null = null;
}

export const statusbar: JupyterFrontEndPlugin<void> = {
  id: 'jupyter_tfserve:statusbar',
  description: 'Models and requests per second in the status bar.',
  autoStart: true,
  requires: [IServing],
  optional: [IStatusBar],
  activate: (app: JupyterFrontEnd, serving: IServing, statusBar: IStatusBar | null) => {
    if (!statusBar) {
      return; // Notebook 7 has none
    }
    const { settings } = serving;
    const item = new Item(serving, () => void app.commands.execute(Commands.show));
    statusBar.registerStatusItem('jupyter_tfserve:status', {
      item,
      align: 'left',
      rank: 10,
      isActive: () => settings.statusBar,
      activeStateChanged: settings.changed
    });
  }
};
