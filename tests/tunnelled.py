"""`jupyter tfserve tunnel` as a process: for the tests of several wings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import grpc
from helpers import PATIENCE, free_ports


class Tunnelled:
    """A `jupyter tfserve tunnel` process."""

    def __init__(self, url: str, token: str) -> None:
        (self.port,) = free_ports(1)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_tfserve.cli", "tunnel", url, f"--port={self.port}"],
            env={**os.environ, "TFSERVE_TOKEN": token},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Whoever runs the tests in the background of a script has it ignored, and so would the child.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:  # gRPC of this process may have a word first, because of the fork
            self.said += line
            if f"gRPC on 127.0.0.1:{self.port}" in line:
                break

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", -1)])

    def __enter__(self) -> Tunnelled:
        assert f"gRPC on 127.0.0.1:{self.port}" in self.said, self.said
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
