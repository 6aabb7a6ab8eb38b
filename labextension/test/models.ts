/** Statuses to test with. */
import { nullTranslator } from '@jupyterlab/translation';

import type { ModelStatus, Sample, ServerInfo, VersionState, VersionStatus } from '../src/types';

export const trans = nullTranslator.load('jupyter_tfserve');

export function version(
  number: number,
  state: VersionState = 'AVAILABLE',
  more: Partial<VersionStatus> = {}
): VersionStatus {
  return {
    version: number,
    state,
    error_message: '',
    error_remedy: '',
    since: 1_700_000_000,
    load_seconds: 0.123,
    devices: ['cpu'],
    memory: 4_290_000,
    idle: false,
    origin: null,
    ...more
  };
}

export function model(name: string, versions: VersionStatus[], more: Partial<ModelStatus> = {}): ModelStatus {
  return {
    name,
    policy: { all: {} },
    labels: {},
    versions,
    on_disk: versions.map(one => one.version),
    signatures: { serving_default: { inputs: { x: { dtype: 'float32', shape: [-1] } }, outputs: {} } },
    batching: {
      mode: 'auto',
      max_batch_size: 1000,
      batch_timeout_micros: 0,
      max_enqueued_batches: 10,
      num_batch_threads: 2,
      allowed_batch_sizes: [],
      pad_variable_length_inputs: false,
      signatures: { serving_default: '' }
    },
    placement: { device: 'auto', replicas: 1, moving_to: '', error: '' },
    error: '',
    ...more
  };
}

export const server: ServerInfo = {
  state: 'running',
  rest_port: 8501,
  grpc_port: 8500,
  host: '127.0.0.1',
  error: '',
  remedy: '',
  token_file: '/run/token'
};

export function sample(requests: number, more: Partial<Sample> = {}): Sample {
  return { requests, errors: 0, p50_ms: 1, p99_ms: 2, queue_ms: 0.1, batch_sizes: { '1': requests }, ...more };
}
