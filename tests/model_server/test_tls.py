"""TLS of both ports, with and without certificates of the clients; real keys, real connections."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
import trustme
from helpers import PATIENCE, Tfserve
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from jupyter_tfserve.model_server.errors import ServingError
from jupyter_tfserve.model_server.tls import Tls


def pem(blob: trustme.Blob) -> str:
    return blob.bytes().decode()


def quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def ssl_config(folder: Path, authority: trustme.CA, more: str = "") -> Path:
    server = authority.issue_cert("localhost")
    file = folder / "ssl.config"
    certificate = "".join(pem(blob) for blob in server.cert_chain_pems)
    file.write_text(f"server_key: {quoted(pem(server.private_key_pem))}\nserver_cert: {quoted(certificate)}\n{more}")
    return file


def over_rest(one: Tfserve, authority: trustme.CA, client: trustme.LeafCert | None = None) -> int:
    context = ssl.create_default_context(cadata=pem(authority.cert_pem))
    if client is not None:
        client.configure_cert(context)
    connection = http.client.HTTPSConnection("localhost", one.rest_port, timeout=PATIENCE, context=context)
    try:
        connection.request("POST", "/v1/models/default:predict", b'{"instances": [1.0]}')
        return connection.getresponse().status
    finally:
        connection.close()


def over_grpc(one: Tfserve, authority: trustme.CA, client: trustme.LeafCert | None = None) -> list[float]:
    mine = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *mine)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "default"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    with grpc.secure_channel(f"localhost:{one.grpc_port}", credentials) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=PATIENCE)
    return list(tf.make_ndarray(answer.outputs["y"]).tolist())


@pytest.mark.parametrize("workers", ["auto", "always"], ids=["one process", "front and worker"])
def test_tls(start: Callable[..., Tfserve], models: Path, tmp_path: Path, authority: trustme.CA, workers: str) -> None:
    file = ssl_config(tmp_path, authority)
    one = start(f"--model_base_path={models / 'affine'}", f"--ssl_config_file={file}", f"--workers={workers}")
    one.wait_until_ready()
    assert over_rest(one, authority) == 200
    assert over_grpc(one, authority) == [4.0]
    with pytest.raises(ssl.SSLError):
        over_rest(one, trustme.CA())
    with pytest.raises((OSError, http.client.HTTPException)):
        one.call("GET", "/healthz")  # in plain text


def test_clients_show_certificates(
    start: Callable[..., Tfserve], models: Path, tmp_path: Path, authority: trustme.CA
) -> None:
    clients = trustme.CA()
    file = ssl_config(tmp_path, authority, f"custom_ca: {quoted(pem(clients.cert_pem))} client_verify: true")
    one = start(f"--model_base_path={models / 'affine'}", f"--ssl_config_file={file}").wait_until_ready()
    known = clients.issue_cert("client@example.org")
    assert over_rest(one, authority, known) == 200
    assert over_grpc(one, authority, known) == [4.0]
    for client in (None, trustme.CA().issue_cert("client@example.org")):
        with pytest.raises(OSError):  # in TLS 1.3 the refusal arrives with the first read
            over_rest(one, authority, client)
        with pytest.raises(grpc.RpcError) as refused:
            over_grpc(one, authority, client)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('server_key: "x"', "needs server_key and server_cert"),
        ('server_key: "x" server_cert: "y" client_verify: true', "client_verify needs custom_ca"),
        ("server_keys: 1", "Error parsing text-format tensorflow.serving.SSLConfig"),
    ],
)
def test_refused(tmp_path: Path, text: str, phrase: str) -> None:
    file = tmp_path / "ssl.config"
    file.write_text(text)
    with pytest.raises(ServingError, match=phrase):
        Tls.read(file)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ssl.config"
    file.write_text('server_key: "x" server_cert: "y"')
    with pytest.raises(ServingError, match="cannot be used"):
        Tls.read(file).for_rest()
