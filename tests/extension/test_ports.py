"""The model server's own ports under Jupyter: TLS, client certificates, and open ones where the owner wants it."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers import PATIENCE, call, wait_for
from jupyter_process import HEADERS, JupyterServer
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

Start = Callable[..., JupyterServer]


class Authority:
    """A certificate authority of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the test's")])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signed = self._builder(subject, key).add_extension(names, False).sign(self._key, hashes.SHA256())
        certificate, private = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        private.chmod(0o600)
        return certificate, private


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
