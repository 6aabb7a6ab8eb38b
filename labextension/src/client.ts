/**
 * The management API over HTTP, with Jupyter's own authentication: a cookie and the XSRF header, or a token in a header;
 * never in a URL.
 */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';

import { EventParser } from './sse';
import type {
  BatchingRequest,
  DeviceList,
  Event,
  ModelStatus,
  NewShare,
  Policy,
  SavedModelRequest,
  ShareList,
  ShareRequest,
  State,
  Stats
} from './types';

/** A refusal: what is wrong, in plain words, and what to do about it. `status` is 0 where nobody answered. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly remedy = ''
  ) {
    super(message);
  }
}

/** JupyterLab's own way adds a time stamp to the URL of what is "no-store", and the model server refuses a query. */
const CACHE: RequestCache = 'no-cache';

/** Seconds of silence after which a stream is dead: the server sends a comment every 15. */
const SILENCE = 40;

export class Client {
  constructor(
    readonly settings: ServerConnection.ISettings,
    private readonly _trans: TranslationBundle
  ) {}

  /** What stands before /v1, as seen from this browser. */
  get address(): string {
    return URLExt.join(this.settings.baseUrl, 'tfserve');
  }

  state(): Promise<State> {
    return this._json('GET', 'state');
  }

  model(name: string): Promise<ModelStatus> {
    return this._json('GET', `models/${encodeURIComponent(name)}`);
  }

  stats(seconds: number): Promise<Stats> {
    return this._json('GET', `stats?seconds=${seconds}`);
  }

  devices(): Promise<DeviceList> {
    return this._json('GET', 'devices');
  }

  /** Serve a model as it was, or try to load again what could not be loaded. */
  serve(name: string): Promise<ModelStatus> {
    return this._json('PUT', `models/${encodeURIComponent(name)}`, {});
  }

  /** The files stay. */
  async unserve(name: string): Promise<void> {
    await this._ask('DELETE', `api/models/${encodeURIComponent(name)}`);
  }

  setPolicy(name: string, policy: Policy): Promise<ModelStatus> {
    return this._json('PUT', `models/${encodeURIComponent(name)}/policy`, policy);
  }

  setLabels(name: string, labels: Record<string, number | null>): Promise<ModelStatus> {
    return this._json('PATCH', `models/${encodeURIComponent(name)}/labels`, labels);
  }

  setBatching(name: string, knobs: BatchingRequest): Promise<ModelStatus> {
    return this._json('PUT', `models/${encodeURIComponent(name)}/batching`, knobs);
  }

  setDevice(name: string, device: string): Promise<ModelStatus> {
    return this._json('PUT', `models/${encodeURIComponent(name)}/device`, { device });
  }

  /** An `Example`, as text: its numbers are to stay as they were written. */
  async example(name: string, signature: string): Promise<string> {
    const query = signature ? `?signature=${encodeURIComponent(signature)}` : '';
    return (await this._ask('GET', `api/models/${encodeURIComponent(name)}/example${query}`)).text();
  }

  async server(action: 'start' | 'stop' | 'restart'): Promise<void> {
    await this._ask('POST', 'api/server', JSON.stringify({ action }));
  }

  shares(): Promise<ShareList> {
    return this._json('GET', 'shares');
  }

  share(request: ShareRequest): Promise<NewShare> {
    return this._json('POST', 'shares', request);
  }

  async revoke(id: string): Promise<void> {
    await this._ask('DELETE', `api/shares/${encodeURIComponent(id)}`);
  }

  serveSavedModel(request: SavedModelRequest): Promise<{ name: string; version: number }> {
    return this._json('POST', 'saved_models', request);
  }

  /** Predict; `where` is "", "/versions/3" or "/labels/stable", the body and the answer are JSON text. */
  async predict(name: string, where: string, body: string): Promise<string> {
    return (await this._ask('POST', `v1/models/${encodeURIComponent(name)}${where}:predict`, body)).text();
  }

  /** The last lines of the model server's log. */
  async log(lines: number): Promise<string> {
    return (await this._ask('GET', `api/logs?lines=${lines}`)).text();
  }

  /** The log as it is written, in pieces, until the signal. */
  followLog(lines: number, signal: AbortSignal): AsyncIterable<string> {
    return this._stream(`api/logs?lines=${lines}&follow=true`, signal, 0);
  }

  /** Events in groups, as they come; an empty group is a sign of life. Ends with the stream, throws where it breaks. */
  async *events(stats: boolean, signal: AbortSignal): AsyncIterable<Event[]> {
    const parser = new EventParser();
    for await (const piece of this._stream(`api/events${stats ? '?stats=true' : ''}`, signal, SILENCE)) {
      yield parser.push(piece).map(text => JSON.parse(text) as Event);
    }
  }

  private async *_stream(path: string, signal: AbortSignal, silence: number): AsyncIterable<string> {
    const broken = new AbortController();
    const end = () => broken.abort();
    signal.addEventListener('abort', end);
    let timer: number | undefined;
    const alive = () => {
      window.clearTimeout(timer);
      timer = silence ? window.setTimeout(end, silence * 1000) : undefined;
    };
    try {
      alive();
      const answer = await this._ask('GET', path, undefined, broken.signal);
      const reader = answer.body!.getReader();
      const decoder = new TextDecoder();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) {
          return;
        }
        alive();
        yield decoder.decode(value, { stream: true });
      }
    } finally {
      window.clearTimeout(timer);
      signal.removeEventListener('abort', end);
      broken.abort();
    }
  }

  private async _json<Message>(method: string, path: string, body?: unknown): Promise<Message> {
    const answer = await this._ask(method, `api/${path}`, body === undefined ? undefined : JSON.stringify(body));
    try {
      return await answer.json();
    } catch {
      throw new ApiError(answer.status, this._trans.__('%1 does not answer as jupyter_tfserve.', this.address));
    }
  }

  private async _ask(method: string, path: string, body?: string, signal?: AbortSignal): Promise<Response> {
    // Not URLExt.join, which takes a name with ".." in it for a way up.
    const url = `${this.address}/${path}`;
    const init: RequestInit = { method, cache: CACHE };
    if (body !== undefined) {
      init.body = body;
      init.headers = { 'Content-Type': 'application/json' };
    }
    if (signal) {
      init.signal = signal;
    }
    let answer: Response;
    try {
      answer = await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new ApiError(0, this._trans.__('The Jupyter Server does not answer: %1', why));
    }
    if (!answer.ok) {
      throw await this._refusal(answer);
    }
    return answer;
  }

  /** The management API says `message` and `remedy`, TensorFlow Serving's API `error`. */
  private async _refusal(answer: Response): Promise<ApiError> {
    const { status, statusText } = answer;
    const text = await answer.text().catch(() => '');
    try {
      const said = JSON.parse(text);
      const message = said.message ?? said.error;
      if (typeof message === 'string' && message) {
        return new ApiError(status, message, typeof said.remedy === 'string' ? said.remedy : '');
      }
    } catch {
      // Not ours: a proxy's page.
    }
    return new ApiError(status, this._trans.__('The Jupyter Server answered %1.', `${status} ${statusText}`.trim()));
  }
}
