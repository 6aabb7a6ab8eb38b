/**
 * Calls of a model that can be copied: curl, Python, gRPC, JavaScript. Each runs as it stands, with a token from where
 * the reader keeps it: a token's value is never in the text. The same as the notebook panel's (`kernel/panel/calls.py`).
 */
import { type Json, parse, python, pythonString, Raw } from './raw_json';
import { place } from './trial';
import type { ServerInfo, Signature } from './types';

/** Characters of a body that a call may hold; a longer one is read from a file. */
const LONGEST = 2000;

export interface Call {
  /** What stands before /v1 at the Jupyter Server. */
  address: string;
  server: ServerInfo;
  model: string;
  /** A version, a label, or "" for the default. */
  which: string;
  /** JSON; "" where there is none. */
  body: string;
  signatures: Record<string, Signature>;
}

/** The calls by the name of their language. */
export function calls(call: Call): Record<string, string> {
  const url = `${call.address}/v1/models/${encodeURIComponent(call.model)}${place(call.which)}:predict`;
  let body: Json = {};
  let text = call.body;
  try {
    body = text ? parse(text) : {};
  } catch {
    text = '{}';
  }
  const isShort = Boolean(text) && text.length <= LONGEST;
  const found = {
    curl: curl(url, isShort ? text : ''),
    Python: pythonCall(url, isShort ? body : null),
    gRPC: grpc(call, isShort ? body : {}),
    JavaScript: javascript(url, isShort ? text : '')
  };
  return Object.fromEntries(Object.entries(found).filter(([, one]) => one));
}

function curl(url: string, body: string): string {
  return [
    'curl -s',
    '-H "Authorization: token $JUPYTER_TOKEN"',
    "-H 'Content-Type: application/json'",
    body ? `-d ${shell(body)}` : '-d @request.json',
    shell(url)
  ].join(' \\\n  ');
}

/** A word of a shell's line. */
function shell(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, `'"'"'`)}'`;
}

function pythonCall(url: string, body: Json): string {
  return [
    ...(body ? [] : ['import json']),
    'import os',
    'import requests',
    '',
    'answer = requests.post(',
    `    ${pythonString(url)},`,
    `    json=${body ? python(body) : 'json.load(open("request.json"))'},`,
    '    headers={"Authorization": "token " + os.environ["JUPYTER_TOKEN"]},',
    ')',
    'answer.raise_for_status()',
    'print(answer.json())'
  ].join('\n');
}

/** By TensorFlow Serving's own stubs: ``pip install tensorflow-serving-api``. */
function grpc({ server, model, which, signatures }: Call, body: Json): string {
  if (!server.grpc_port) {
    return '';
  }
  const asked = isObject(body) && typeof body.signature_name === 'string' ? body.signature_name : 'serving_default';
  const signature = asked in signatures ? asked : (Object.keys(signatures)[0] ?? asked);
  const spec = 'request.model_spec';
  const inputs = Object.entries(inputsOf(body, signatures[signature]));
  const file = pythonString(server.token_file);
  const bearer = server.token_file ? `, metadata=[("authorization", "Bearer " + open(${file}).read())]` : '';
  return [
    'import grpc',
    ...(inputs.some(([, value]) => value.includes('np.')) ? ['import numpy as np'] : []),
    'import tensorflow as tf',
    'from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc',
    '',
    'request = predict_pb2.PredictRequest()',
    `${spec}.name = ${pythonString(model)}`,
    `${spec}.signature_name = ${pythonString(signature)}`,
    ...(/^\d+$/.test(which)
      ? [`${spec}.version.value = ${which}`]
      : which
        ? [`${spec}.version_label = ${pythonString(which)}`]
        : []),
    ...inputs.map(([key, value]) => `request.inputs[${pythonString(key)}].CopyFrom(tf.make_tensor_proto(${value}))`),
    `with grpc.insecure_channel(${pythonString(`${server.host}:${server.grpc_port}`)}) as channel:`,
    '    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)',
    `    answer = stub.Predict(request, timeout=60${bearer})`,
    'print({name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()})'
  ].join('\n');
}

/** Python for the value of each input. */
function inputsOf(body: Json, signature: Signature | undefined): Record<string, string> {
  const tensors = signature?.inputs ?? {};
  const names = Object.keys(tensors);
  const { instances: rows = null, inputs: columns = null } = isObject(body) ? body : {};
  let values: Record<string, Json> = {};
  if (isObject(columns)) {
    values = columns;
  } else if (columns !== null && names.length === 1) {
    values = { [names[0]]: columns };
  } else if (Array.isArray(rows) && isObject(rows[0]) && !('b64' in rows[0])) {
    const objects = rows.filter(isObject);
    values = Object.fromEntries(Object.keys(rows[0]).map(key => [key, objects.map(row => row[key] ?? null)]));
  } else if (rows !== null && names.length === 1) {
    values = { [names[0]]: rows };
  }
  if (!Object.keys(values).length) {
    return Object.fromEntries(
      names.map(key => [key, `...  # ${tensors[key].dtype} ${JSON.stringify(tensors[key].shape)}`])
    );
  }
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => {
      const dtype = tensors[key]?.dtype;
      const plain = python(value);
      return [
        key,
        !dtype || dtype === 'string' ? plain : `np.array(${plain}, np.${dtype === 'bool' ? 'bool_' : dtype})`
      ];
    })
  );
}

function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Raw);
}

/** From a page of the same Jupyter Server its cookie counts as well; elsewhere the token does. */
function javascript(url: string, body: string): string {
  return [
    `const answer = await fetch(${JSON.stringify(url)}, {`,
    "  method: 'POST',",
    "  headers: { 'Content-Type': 'application/json', Authorization: `token ${token}` },",
    `  body: ${body ? `JSON.stringify(${body})` : "await (await fetch('request.json')).text()"},`,
    '});',
    'if (!answer.ok) throw new Error(await answer.text());',
    'console.log(await answer.json());'
  ].join('\n');
}
