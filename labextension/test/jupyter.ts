/** A Jupyter Server of which only what it answers exists. */
import { ServerConnection } from '@jupyterlab/services';

import { Client } from '../src/client';
import { trans } from './models';

/** A stream of events that a test writes. */
export class Stream {
  private _controller!: ReadableStreamDefaultController<Uint8Array>;

  readonly body = new ReadableStream<Uint8Array>({
    start: controller => {
      this._controller = controller;
    }
  });

  send(event: unknown): void {
    this.write(`data: ${JSON.stringify(event)}\n\n`);
  }

  write(text: string): void {
    this._controller.enqueue(new TextEncoder().encode(text));
  }

  close(): void {
    this._controller.close();
  }
}

type Answer = unknown | ((request: Request) => unknown);

export class Jupyter {
  /** What answers, by "GET api/state". An object is JSON, a Response is itself, null is no connection. */
  readonly answers = new Map<string, Answer>();

  /** What was asked, in order. */
  readonly asked: string[] = [];
  readonly requests: Request[] = [];

  /** The streams of events that were opened. */
  readonly streams: Stream[] = [];

  readonly client: Client;

  constructor() {
    const settings = ServerConnection.makeSettings({
      baseUrl: 'http://localhost:8888/prefix/',
      token: 'secret',
      fetch: ((request: Request) => this._answer(request)) as typeof fetch
    });
    this.client = new Client(settings, trans);
    this.answers.set('GET api/events', () => this._open());
    this.answers.set('GET api/events?stats=true', () => this._open());
  }

  count(what: string): number {
    return this.asked.filter(one => one === what).length;
  }

  private _open(): Response {
    const stream = new Stream();
    this.streams.push(stream);
    stream.write(': connected\n\n');
    return new Response(stream.body, { status: 200 });
  }

  private async _answer(request: Request): Promise<Response> {
    const what = `${request.method} ${request.url.replace('http://localhost:8888/prefix/tfserve/', '')}`;
    this.asked.push(what);
    this.requests.push(request);
    const known = this.answers.get(what);
    const answer = typeof known === 'function' ? await known(request) : known;
    if (answer instanceof Response) {
      return answer;
    }
    if (answer === null) {
      throw new TypeError('Failed to fetch');
    }
    return answer === undefined
      ? new Response(JSON.stringify({ message: 'no such thing', remedy: 'ask for another' }), { status: 404 })
      : new Response(JSON.stringify(answer), { status: 200 });
  }
}
