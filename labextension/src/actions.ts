/**
 * What the buttons do. Each is done when its promise is; a refusal is thrown.
 */
import { ApiError, type Client } from './client';
import type { Store } from './store';
import type { BatchingRequest, ModelStatus, NewShare, Policy, ShareRequest } from './types';
import { active } from './words';

export class Actions {
  constructor(private readonly _store: Store) {}

  /** Load a version; from then on just those that are served now and this one are. */
  load(status: ModelStatus, version: number): Promise<void> {
    return this.setPolicy(status.name, { specific: { versions: ascending([...active(status), version]) } });
  }

  /** Unload a version that is not the last one. */
  unload(status: ModelStatus, version: number): Promise<void> {
    const left = active(status).filter(one => one !== version);
    return this.setPolicy(status.name, { specific: { versions: ascending(left) } });
  }

  async setPolicy(name: string, policy: Policy): Promise<void> {
    this._store.told(await this._client.setPolicy(name, policy));
  }

  /** Serve a model as it was served last; also: try again to load what could not be loaded. */
  async serve(name: string): Promise<void> {
    this._store.told(await this._client.serve(name));
  }

  /** Unload all versions; the files stay. One that is not served any more is fine. */
  async stopServing(name: string): Promise<void> {
    try {
      await this._client.unserve(name);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) {
        throw error;
      }
    }
    await this._store.refresh();
  }

  /** Null takes the label away. */
  async moveLabel(name: string, label: string, version: number | null): Promise<void> {
    this._store.told(await this._client.setLabels(name, { [label]: version }));
  }

  async setBatching(name: string, knobs: BatchingRequest): Promise<void> {
    this._store.told(await this._client.setBatching(name, knobs));
  }

  /** Done when the move has begun. */
  async move(name: string, device: string): Promise<void> {
    this._store.told(await this._client.setDevice(name, device));
  }

  async server(action: 'start' | 'stop' | 'restart'): Promise<void> {
    await this._client.server(action);
    await this._store.refresh();
  }

  share(request: ShareRequest): Promise<NewShare> {
    return this._client.share(request);
  }

  revoke(id: string): Promise<void> {
    return this._client.revoke(id);
  }

  private get _client(): Client {
    return this._store.client;
  }
}

function ascending(versions: number[]): number[] {
  return [...new Set(versions)].sort((one, other) => one - other);
}
