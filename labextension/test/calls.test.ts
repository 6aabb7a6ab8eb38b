/** Calls hold what was typed, and never a token. */
import { expect, it } from 'vitest';

import { calls } from '../src/calls';
import { server } from './models';

const call = {
  address: 'http://127.0.0.1:8888/user/ann/tfserve',
  server,
  model: 'digits',
  which: '',
  body: '{"instances": [1.0, 2.0]}',
  signatures: { serving_default: { inputs: { x: { dtype: 'float32', shape: [-1] } }, outputs: {} } }
};

it('writes curl', () => {
  expect(calls(call).curl).toBe(
    [
      'curl -s',
      '-H "Authorization: token $JUPYTER_TOKEN"',
      "-H 'Content-Type: application/json'",
      `-d '{"instances": [1.0, 2.0]}'`,
      'http://127.0.0.1:8888/user/ann/tfserve/v1/models/digits:predict'
    ].join(' \\\n  ')
  );
  expect(calls({ ...call, body: `{"instances": ["it's"]}` }).curl).toContain(`-d '{"instances": ["it'"'"'s"]}'`);
});

it('names versions and labels', () => {
  expect(calls({ ...call, which: '3' }).curl).toContain('/models/digits/versions/3:predict');
  expect(calls({ ...call, which: 'a b' }).Python).toContain('/models/digits/labels/a%20b:predict');
  expect(calls({ ...call, which: '3' }).gRPC).toContain('request.model_spec.version.value = 3');
  expect(calls({ ...call, which: 'stable' }).gRPC).toContain("request.model_spec.version_label = 'stable'");
});

it('writes Python', () => {
  expect(calls(call).Python).toContain("json={'instances': [1.0, 2.0]},");
  expect(calls(call).Python).toContain('os.environ["JUPYTER_TOKEN"]');
});

it('writes gRPC where there is a port', () => {
  expect(calls(call).gRPC).toContain(
    "request.inputs['x'].CopyFrom(tf.make_tensor_proto(np.array([1.0, 2.0], np.float32)))"
  );
  expect(calls({ ...call, server: { ...server, grpc_port: null } }).gRPC).toBeUndefined();
});

it('reads a long body from a file', () => {
  const long = { ...call, body: JSON.stringify({ instances: new Array(2000).fill(1) }) };
  expect(calls(long).curl).toContain('-d @request.json');
  expect(calls(long).Python).toContain('json.load(open("request.json"))');
  expect(calls(long).JavaScript).toContain('request.json');
});
