/**
 * The management API's messages, as `jupyter_tfserve/api.py` and docs/openapi.yaml name them. Only what is read here.
 */

export type VersionState = 'START' | 'LOADING' | 'AVAILABLE' | 'UNLOADING' | 'END';

/** Exactly one of the three keys. */
export interface Policy {
  latest?: { num_versions: number };
  all?: Record<string, never>;
  specific?: { versions: number[] };
}

export interface Origin {
  notebook: string;
  cell: number | null;
  user: string;
  time: number;
}

export interface VersionStatus {
  version: number;
  state: VersionState;
  error_message: string;
  error_remedy: string;
  /** Unix time of the last change of state. */
  since: number;
  load_seconds: number | null;
  devices: string[];
  /** Bytes; null unless it is loaded. */
  memory: number | null;
  /** It has left memory because nobody asks it. */
  idle: boolean;
  origin: Origin | null;
}

export type BatchingMode = 'on' | 'auto' | 'off';

export interface Batching {
  mode: BatchingMode;
  max_batch_size: number;
  batch_timeout_micros: number;
  max_enqueued_batches: number;
  num_batch_threads: number;
  allowed_batch_sizes: number[];
  pad_variable_length_inputs: boolean;
  /** Why requests for a signature are not merged, "" if they are. */
  signatures: Record<string, string>;
}

/** Null goes back to the default. */
export type BatchingRequest = { [Key in keyof Omit<Batching, 'signatures'>]?: Batching[Key] | null };

export interface Placement {
  device: string;
  replicas: number;
  /** "" unless a move is under way. */
  moving_to: string;
  /** Why the last move failed. */
  error: string;
}

export interface Tensor {
  dtype: string;
  shape: number[] | null;
}

export interface Signature {
  inputs: Record<string, Tensor>;
  outputs: Record<string, Tensor>;
}

export interface ModelStatus {
  name: string;
  policy: Policy;
  labels: Record<string, number>;
  /** Highest first. */
  versions: VersionStatus[];
  /** Highest first. */
  on_disk: number[];
  signatures: Record<string, Signature>;
  batching: Batching;
  placement: Placement;
  error: string;
}

/** What one model did in one second. */
export interface Sample {
  requests: number;
  errors: number;
  p50_ms: number | null;
  p99_ms: number | null;
  queue_ms: number | null;
  batch_sizes: Record<string, number>;
}

export interface Stats {
  time: number;
  seconds: number;
  /** By model, oldest first; null: nothing happened in that second. */
  samples: Record<string, (Sample | null)[]>;
}

export interface Example {
  signature: string;
  body: Record<string, unknown>;
}

export type ServerState = 'stopped' | 'starting' | 'running' | 'restarting' | 'failed';

export interface ServerInfo {
  state: ServerState;
  rest_port: number | null;
  grpc_port: number | null;
  host: string;
  error: string;
  remedy: string;
  token_file: string;
}

export interface State {
  server: ServerInfo;
  models: ModelStatus[];
  /** Models that the store holds and that are not served. */
  stored: string[];
}

export interface Device {
  id: string;
  name: string;
  memory_total: number | null;
  memory_used: number | null;
  load: number | null;
  usable: boolean;
  reason: string;
  remedy: string;
  models: string[];
}

export interface DeviceList {
  devices: Device[];
  notice: string;
}

export type ShareKind = 'user' | 'link' | 'key';

export interface ShareList {
  shares: Share[];
  /** That can be made on this server; the default comes first. */
  kinds: ShareKind[];
}

export interface Share {
  id: string;
  kind: ShareKind;
  models: string[];
  versions: number[];
  labels: string[];
  user: string;
  created: number;
  expires: number | null;
  rate: number | null;
  concurrency: number | null;
  note: string;
  last_used: number | null;
}

export interface ShareRequest {
  models: string[];
  kind: ShareKind;
  user?: string;
  expires_in: number | null;
}

/** A share, and what is told this once. */
export interface NewShare {
  share: Share;
  key: string;
  accept_url: string;
}

export interface SavedModelRequest {
  /** As the contents API names it. */
  path: string;
  name: string;
  version: number | null;
  labels: string[];
}

/** Something changed. */
export interface Event {
  type: 'version' | 'model' | 'server' | 'refusal' | 'move' | 'stats';
  time: number;
  model?: string;
  state?: string;
  error?: string;
  device?: string;
  samples?: Record<string, Sample>;
}
