/**
 * Asks before something is stopped, and says what went wrong where no section is there to say it.
 */
import { Dialog, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import { ApiError } from './client';

/** Whether the user agrees. */
export async function ask(trans: TranslationBundle, title: string, body: string, yes: string): Promise<boolean> {
  const result = await showDialog({
    title,
    body,
    buttons: [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.warnButton({ label: yes })]
  });
  return result.button.accept;
}

/** An error, and what to do about it. */
export async function tellError(trans: TranslationBundle, title: string, error: unknown): Promise<void> {
  const message = error instanceof Error ? error.message : String(error);
  const remedy = error instanceof ApiError && error.remedy ? trans.__('What to do: %1', error.remedy) : '';
  await showErrorMessage(title, [message, remedy].filter(Boolean).join('\n'));
}
