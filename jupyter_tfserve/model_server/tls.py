"""TLS of the ports, from an SSLConfig file: as in TF Serving it holds the PEM texts themselves, not paths."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc

from . import config_protos
from .errors import invalid


@dataclass(frozen=True)
class Tls:
    """A server's key and certificate, and whose clients it takes."""

    key: bytes
    certificate: bytes
    client_ca: bytes = b""
    verify_clients: bool = False

    @classmethod
    def read(cls, path: Path) -> Tls:
        """From a file; raises ServingError."""
        config = config_protos.read("SSLConfig", path)
        if not config.server_key or not config.server_cert:
            raise invalid(f"{path} needs server_key and server_cert, as PEM texts.")
        if config.client_verify and not config.custom_ca:
            raise invalid(f"{path}: client_verify needs custom_ca, the certificate that clients' ones are signed with.")
        return cls(
            config.server_key.encode(), config.server_cert.encode(), config.custom_ca.encode(), config.client_verify
        )

    def for_grpc(self) -> grpc.ServerCredentials:
        """What grpcio takes."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.client_ca or None, require_client_auth=self.verify_clients
        )

    def for_rest(self) -> ssl.SSLContext:
        """What asyncio takes. Raises ServingError if the key and the certificate are not a pair."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # OpenSSL's Python interface reads only files; this one is 0600, and gone at once.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(self.certificate.rstrip() + b"\n" + self.key)
            file.flush()
            try:
                context.load_cert_chain(file.name)
                if self.client_ca:
                    context.load_verify_locations(cadata=self.client_ca.decode())
            except ssl.SSLError as error:
                raise invalid(f"The key and certificate of --ssl_config_file cannot be used: {error}") from None
        if self.verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context
