/**
 * What a user has chosen to see: which model, which sections. Kept with the workspace.
 */
import type { IStateDB } from '@jupyterlab/statedb';
import { type ISignal, Signal } from '@lumino/signaling';

const KEY = 'jupyter_tfserve:view';

interface Kept {
  model: string;
  open: string[];
}

export class View {
  /** Which model is shown; "" for the first there is. */
  get model(): string {
    return this._model;
  }
  set model(name: string) {
    if (name !== this._model) {
      this._model = name;
      this._keep();
    }
  }

  /** Whether a section is open. */
  isOpen(section: string): boolean {
    return this._open.has(section);
  }

  toggle(section: string): void {
    if (!this._open.delete(section)) {
      this._open.add(section);
    }
    this._keep();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Take up what was kept, and keep what is chosen from now on. */
  async restore(state: IStateDB): Promise<void> {
    const kept = (await state.fetch(KEY)) as Partial<Kept> | undefined;
    if (kept && !this._state) {
      this._model = typeof kept.model === 'string' ? kept.model : '';
      this._open = new Set(Array.isArray(kept.open) ? kept.open : []);
    }
    this._state = state;
    this._changed.emit();
  }

  private _keep(): void {
    const kept: Kept = { model: this._model, open: [...this._open] };
    void this._state?.save(KEY, { ...kept });
    this._changed.emit();
  }

  private _model = '';
  private _open = new Set<string>(['Versions']);
  private _state: IStateDB | null = null;
  private _changed = new Signal<this, void>(this);
}
