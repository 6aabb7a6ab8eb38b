/**
 * What to tell a colleague once a share was made. As `%tfserve share` says it (`kernel/sharing.py`).
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import type { NewShare } from './types';

const HOUR = 3600;

/** How long a share may last, in seconds; null is for good. */
export const TIMES: Record<string, number | null> = {
  hour: HOUR,
  day: 24 * HOUR,
  week: 168 * HOUR,
  month: 720 * HOUR,
  ever: null
};

/** The Hub's scope, as a colleague writes it into the form for a token. */
const SCOPE = 'custom:jupyter_server:execute:jupyter_tfserve:inference';

export interface Line {
  words: string;
  text: string;
  isSecret?: boolean;
}

/** Lines to send, with what they are for. */
export function sharedLines(trans: TranslationBundle, made: NewShare, address: string, model: string): Line[] {
  const url = `${address}/v1/models/${encodeURIComponent(model)}`;
  const curl =
    'curl -s -H "Authorization: Bearer $TFSERVE_TOKEN" -H "Content-Type: application/json" ' +
    `-d @request.json '${url}:predict'`;
  const send: Line = { words: trans.__('What they call:'), text: curl };
  if (made.key) {
    const words = trans.__('The key, which is not shown again. Send it by a way that you would trust with a password:');
    return [{ words, text: made.key, isSecret: true }, send];
  }
  const { origin, pathname } = new URL(url);
  const owner = pathname.split('/user/')[1]?.split('/') ?? [];
  const server = owner[1] === undefined || owner[1] === 'tfserve' ? '' : owner[1];
  return [
    { words: trans.__('1. They open:'), text: acceptUrl(made, origin, pathname) },
    {
      words: trans.__('2. On the page that follows they request a token with the scope:'),
      text: `${SCOPE}!server=${decodeURIComponent(owner[0] ?? '')}/${decodeURIComponent(server)}`
    },
    send
  ];
}

/** Where the colleague goes first: to accept a link and then, or at once, to the page that makes tokens. */
function acceptUrl(made: NewShare, origin: string, path: string): string {
  if (!made.accept_url) {
    return `${origin}${path.split('/user/')[0]}/hub/token`;
  }
  const accept = new URL(made.accept_url, origin);
  const page = `${accept.pathname.split('/accept-share')[0]}/token`;
  return `${accept.origin}${accept.pathname}${accept.search}&next=${encodeURIComponent(page)}`;
}
