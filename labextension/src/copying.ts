/**
 * To the clipboard; where the page may not write there (no TLS) the text is selected, for the keys that copy.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

/** What happened, in words. */
export async function copy(trans: TranslationBundle, text: HTMLElement): Promise<string> {
  try {
    await navigator.clipboard.writeText(text.textContent ?? '');
    return trans.__('copied');
  } catch {
    window.getSelection()?.selectAllChildren(text);
    return trans.__('selected: copy it with the keyboard');
  }
}
