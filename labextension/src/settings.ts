/**
 * The settings of schema/plugin.json, with their defaults where there is no registry.
 */
import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { type ISignal, Signal } from '@lumino/signaling';

export class Settings {
  /** Whether the status bar says how much is served. */
  get statusBar(): boolean {
    return this._get('statusBar', true);
  }

  /** Seconds that the sparklines show. */
  get history(): number {
    return this._get('history', 60);
  }

  /** Whether stopping is asked about before. */
  get askBeforeStopping(): boolean {
    return this._get('askBeforeStopping', true);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Go by a registry's settings from now on. */
  use(settings: ISettingRegistry.ISettings): void {
    this._settings = settings;
    settings.changed.connect(() => this._changed.emit());
    this._changed.emit();
  }

  private _get<Value extends boolean | number>(name: string, or: Value): Value {
    const value = this._settings?.get(name).composite;
    return typeof value === typeof or ? (value as Value) : or;
  }

  private _settings: ISettingRegistry.ISettings | null = null;
  private _changed = new Signal<this, void>(this);
}
