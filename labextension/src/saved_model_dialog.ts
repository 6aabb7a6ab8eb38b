/**
 * Asks under which name, as which version and with which label a SavedModel is to be served.
 */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

import { proposed } from './saved_model';
import type { SavedModelRequest } from './types';

type Asked = Omit<SavedModelRequest, 'path'>;

class Body extends Widget implements Dialog.IBodyWidget<Asked> {
  constructor(trans: TranslationBundle, path: string) {
    super();
    this.addClass('jp-jupyter-tfserve-dialog');
    const { name, version } = proposed(path);
    this._name = this._field(trans.__('Name'), name, '');
    this._version = this._field(trans.__('Version'), version, trans.__('the next one'));
    Object.assign(this._version, { type: 'number', min: '1' });
    this._label = this._field(trans.__('Label'), '', trans.__('none'));
  }

  getValue(): Asked {
    const [version, label] = [this._version.value.trim(), this._label.value.trim()];
    return {
      name: this._name.value.trim(),
      version: version ? Number(version) : null,
      labels: label ? [label] : []
    };
  }

  private _field(words: string, value: string, placeholder: string): HTMLInputElement {
    const label = document.createElement('label');
    const input = document.createElement('input');
    Object.assign(input, { type: 'text', value, placeholder, className: 'jp-mod-styled', autocomplete: 'off' });
    label.append(words, input);
    this.node.append(label);
    return input;
  }

  private readonly _name: HTMLInputElement;
  private readonly _version: HTMLInputElement;
  private readonly _label: HTMLInputElement;
}

/** Null where the user changed their mind. */
export async function askHowToServe(trans: TranslationBundle, path: string): Promise<Asked | null> {
  const { button, value } = await showDialog({
    title: trans.__('Serve this SavedModel'),
    body: new Body(trans, path),
    focusNodeSelector: 'input',
    buttons: [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.okButton({ label: trans.__('Serve') })]
  });
  return button.accept ? value : null;
}
