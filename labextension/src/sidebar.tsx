/**
 * The sidebar: the model server's state, the list of models, and one model in detail. It follows what is served, and is
 * drawn, only while it is in sight.
 */
import { ReactWidget } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';

import { type App, AppProvider, useApp, useStore } from './context';
import { Detail } from './detail';
import { icon } from './icon';
import { List } from './list';
import { Action, css, Dim, Told, useDoing } from './parts';
import { serverState } from './words';

export class Sidebar extends ReactWidget {
  constructor(app: Omit<App, 'changed'>) {
    super();
    this.id = 'jupyter-tfserve-sidebar';
    this.addClass('jp-jupyter-tfserve-sidebar');
    this.title.icon = icon;
    this.title.caption = app.trans.__('TensorFlow Serving');
    this.node.tabIndex = -1;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', app.trans.__('TensorFlow Serving'));
    this._app = { ...app, changed: this._changed };
    for (const signal of [app.store.changed, app.view.changed, app.settings.changed, app.trials.changed]) {
      signal.connect(this._tell, this);
    }
  }

  dispose(): void {
    this._followed?.dispose();
    Signal.clearData(this);
    super.dispose();
  }

  protected render(): JSX.Element {
    return (
      <AppProvider value={this._app}>
        <Content />
      </AppProvider>
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

  protected onBeforeHide(message: Message): void {
    this._leave();
    super.onBeforeHide(message);
  }

  protected onBeforeDetach(message: Message): void {
    this._leave();
    super.onBeforeDetach(message);
  }

  protected onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    // What it shows may still have to come: from the sidebar itself the next Tab leads there.
    (this.node.querySelector<HTMLElement>('button') ?? this.node).focus();
  }

  private _follow(): void {
    this._followed ??= this._app.store.follow('stats');
    this._changed.emit();
  }

  private _leave(): void {
    this._followed?.dispose();
    this._followed = null;
  }

  private _tell(): void {
    if (this._followed) {
      this._changed.emit();
    }
  }

  private _app: App;
  private _followed: IDisposable | null = null;
  private _changed = new Signal<this, void>(this);
}

function Content(): JSX.Element {
  const { trans } = useApp();
  const server = useStore(({ store }) => store.server);
  const shown = useStore(({ store, view }) => view.model || store.names[0] || store.stored[0] || '');
  const isEmpty = useStore(({ store }) => !store.names.length && !store.stored.length);
  const isRunning = server.state === 'running';
  return (
    <>
      <h2>{trans.__('TensorFlow Serving')}</h2>
      <ServerLine />
      {isRunning && isEmpty && <Dim>{trans.__('No model is served. In a notebook: %tfserve digits model')}</Dim>}
      {isRunning && <List shown={shown} />}
      {isRunning && shown && <Detail key={shown} name={shown} />}
    </>
  );
}

/** What is to be said of the model server, and the button that starts it. */
function ServerLine(): JSX.Element {
  const { actions, trans } = useApp();
  const server = useStore(({ store }) => store.server);
  const said = serverState(trans, server);
  const doing = useDoing();
  return (
    <div className={css('server')}>
      <div role="status">{said && <Told said={said} />}</div>
      {(server.state === 'stopped' || server.state === 'failed') && (
        <Action
          primary
          disabled={doing.busy}
          title={trans.__('Start the model server')}
          onClick={() => doing.run(() => actions.server('start'))}
        >
          {trans.__('Start')}
        </Action>
      )}
      {doing.outcome}
    </div>
  );
}
