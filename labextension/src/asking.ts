/**
 * Asks before something is stopped.
 */
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

/** Whether the user agrees. */
export async function ask(trans: TranslationBundle, title: string, body: string, yes: string): Promise<boolean> {
  const result = await showDialog({
    title,
    body,
    buttons: [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.warnButton({ label: yes })]
  });
  return result.button.accept;
}
