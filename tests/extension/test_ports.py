"""The model server's own ports under Jupyter: TLS, client certificates, and open ones where the owner wants it."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from helpers import PATIENCE, call, wait_for
from jupyter_process import HEADERS, JupyterServer
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

Start = Callable[..., JupyterServer]


class Authority:
    """A certificate authority of the test; its files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1 and of its key."""
        issued = self._ca.issue_cert("127.0.0.1")
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


def test_tls_and_client_certificates(start_jupyter: Start, models: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    mine, my_key = authority.issue("client")
    one = start_jupyter(
        f"--TFServe.certfile={certificate}", f"--TFServe.keyfile={key}", f"--TFServe.client_ca={authority.file}"
    )
    one.register(models / "affine" / "1", "affine")
    info = one.info()
    assert info["rest_port"] and info["grpc_port"]

    def rest(context: ssl.SSLContext, headers: dict[str, str]) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", info["rest_port"], timeout=PATIENCE, context=context)
        try:
            connection.request("GET", "/v1/models/affine", headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    stranger = ssl.create_default_context(cafile=str(authority.file))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        rest(stranger, HEADERS)
    known = ssl.create_default_context(cafile=str(authority.file))
    known.load_cert_chain(mine, my_key)
    assert rest(known, HEADERS) == 200
    assert rest(known, {}) == 401  # a certificate is no bearer

    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "affine"
    bearer = (("authorization", f"Bearer {one.token}"),)

    def status(*identity: bytes) -> str:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *identity)
        with grpc.secure_channel(f"127.0.0.1:{info['grpc_port']}", credentials) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            try:
                stub.GetModelStatus(asked, timeout=PATIENCE, metadata=bearer)
            except grpc.RpcError as error:
                return error.code().name
        return "OK"

    assert status(my_key.read_bytes(), mine.read_bytes()) == "OK"
    assert status() == "UNAVAILABLE"
    config = one.own_runtime / "ssl_config"
    assert config.stat().st_mode & 0o077 == 0


def test_a_certificate_that_is_not_there(start_jupyter: Start, models: Path, tmp_path: Path) -> None:
    one = start_jupyter(f"--TFServe.certfile={tmp_path / 'x'}", f"--TFServe.keyfile={tmp_path / 'y'}")
    answer = one.call("POST", "/tfserve/api/server", {"action": "start"})
    assert answer.status == 503
    assert "certificate of the direct ports" in answer.json["message"]
    assert "TFServe.certfile" in answer.json["remedy"]


def test_open_ports_are_for_the_loopback(start_jupyter: Start, models: Path, tmp_path: Path) -> None:
    one = start_jupyter("--TFServe.allow_unauthenticated_loopback=True")
    one.register(models / "affine" / "1", "affine")
    info = one.info()
    assert info["rest_port"]
    body = {"instances": [1.0]}
    assert call(info["rest_port"], "POST", "/v1/models/affine:predict", body).status == 200
    assert one.call("POST", "/tfserve/v1/models/affine:predict", body, headers={}).status == 401
    refused = JupyterServer(
        tmp_path / "open", "--TFServe.allow_unauthenticated_loopback=True", "--TFServe.host=0.0.0.0"
    )
    try:
        wait_for("it to say why", lambda: "is for the loopback" in refused.said())
        assert not refused.endpoint_file.exists()
    finally:
        refused.close()
