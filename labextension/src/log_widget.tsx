/**
 * The model server's log in a panel of its own, also where no model is served. It follows only while it is in sight.
 */
import { ReactWidget } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';

import { AppProvider } from './context';
import { icon } from './icon';
import { Log } from './sections/log';
import type { IServing } from './tokens';

export class LogWidget extends ReactWidget {
  constructor(private readonly _serving: IServing) {
    super();
    const { trans } = _serving;
    this.id = 'jupyter-tfserve-log';
    this.addClass('jp-jupyter-tfserve-sidebar');
    this.addClass('jp-jupyter-tfserve-log-panel');
    this.title.icon = icon;
    this.title.label = trans.__('Model Server’s Log');
    this.title.closable = true;
  }

  protected render(): JSX.Element {
    return (
      <AppProvider value={{ ...this._serving, changed: this._changed }}>{this.isVisible ? <Log /> : <></>}</AppProvider>
    );
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.update();
  }

  protected onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this.update();
  }

  protected onCloseRequest(message: Message): void {
    super.onCloseRequest(message);
    this.dispose();
  }

  private _changed = new Signal<this, void>(this);
}
