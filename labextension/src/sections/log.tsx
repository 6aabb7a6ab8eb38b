/**
 * The model server's log: its end, and what comes while it is followed.
 */
import { useCallback, useEffect, useRef, useState } from 'react';

import { useApp } from '../context';
import { css, useDoing } from '../parts';

/** Lines that are shown. */
const LINES = 200;

/** Milliseconds between two updates, however much is written. */
const PACE = 250;

/** Milliseconds before a log that ended is asked for again: the model server was started anew. */
const AGAIN = 1000;

export function Log(): JSX.Element {
  const { store, trans } = useApp();
  const doing = useDoing();
  const [isFollowed, setFollowed] = useState(true);
  const [text, setText] = useState<string | null>(null);
  const box = useRef<HTMLPreElement>(null);
  const isAtEnd = useRef(true);
  const follow = useCallback(
    async (ended: AbortSignal) => {
      while (!ended.aborted) {
        try {
          let all = '';
          let shown = 0;
          for await (const piece of store.client.followLog(LINES, ended)) {
            all = (all + piece)
              .split('\n')
              .slice(-LINES - 1)
              .join('\n');
            await sleep(shown + PACE - Date.now());
            shown = Date.now();
            if (ended.aborted) {
              return;
            }
            setText(all);
          }
        } catch {
          // The Jupyter Server does not answer, which the sidebar says.
        }
        await sleep(AGAIN);
      }
    },
    [store]
  );
  useEffect(() => {
    if (!isFollowed) {
      void doing.run(async () => setText(await store.client.log(LINES)));
      return undefined;
    }
    return whileInSight(follow);
  }, [isFollowed]);
  useEffect(() => {
    if (isAtEnd.current && box.current) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  }, [text]);
  return (
    <>
      <button
        type="button"
        className={css('button')}
        aria-pressed={isFollowed}
        title={trans.__('Show what is written as it is written')}
        onClick={() => setFollowed(!isFollowed)}
      >
        {trans.__('Follow')}
      </button>
      <pre
        ref={box}
        className={css('log')}
        role="log"
        aria-live="off"
        aria-label={trans.__('Log')}
        tabIndex={0}
        onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
          isAtEnd.current = scrollTop + clientHeight > scrollHeight - 10;
        }}
      >
        {text || (text === '' && trans.__('The model server has written no log yet.'))}
      </pre>
      {doing.outcome}
    </>
  );
}

/** A page that is not in sight follows nothing. */
function whileInSight(follow: (ended: AbortSignal) => Promise<void>): () => void {
  let end: AbortController | null = null;
  const update = () => {
    if (document.hidden) {
      end?.abort();
      end = null;
    } else if (!end) {
      end = new AbortController();
      void follow(end.signal);
    }
  };
  document.addEventListener('visibilitychange', update);
  update();
  return () => {
    document.removeEventListener('visibilitychange', update);
    end?.abort();
  };
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise(done => setTimeout(done, Math.max(0, milliseconds)));
}
