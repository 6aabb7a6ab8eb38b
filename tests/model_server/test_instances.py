"""`--instances`: several real processes on the same ports, and what becomes of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from helpers import PATIENCE, Tfserve, environment, free_ports, wait_for
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from jupyter_tfserve.model_server.flags import cpus


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jupyter_tfserve.model_server", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )


def children(one: Tfserve) -> list[psutil.Process]:
    return [child for child in psutil.Process(one.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def connections(process: psutil.Process, port: int, status: str) -> int:
    """How many of the port's connections in that state are the process's."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(c.laddr.port == port and c.status == status for c in process.net_connections("tcp"))
    return 0


def both_listen(one: Tfserve, gone: int = 0) -> list[psutil.Process] | None:
    """The two instances, once both listen on both ports; `gone` is none of them."""
    found = children(one)
    ports = (one.rest_port, one.grpc_port)
    ready = all(connections(child, port, psutil.CONN_LISTEN) for child in found for port in ports)
    return found if len(found) == 2 and ready and gone not in [child.pid for child in found] else None


@contextlib.contextmanager
def asking(one: Tfserve, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections that stay open, each of which was answered."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = http.client.HTTPConnection("127.0.0.1", one.rest_port, timeout=PATIENCE)
            opened.append(stack.enter_context(contextlib.closing(connection)))
            connection.request("POST", "/v1/models/default:predict", b'{"instances": [1.0]}')
            reply = connection.getresponse()
            assert (reply.status, json.loads(reply.read())) == (200, {"predictions": [4.0]})
        yield opened


def test_two_answer_and_one_is_replaced(start: Callable[..., Tfserve], models: Path) -> None:
    one = start("--instances=2", f"--model_base_path={models / 'affine'}", "--tensorflow_inter_op_parallelism=5")
    one.wait_until_ready()
    found = wait_for("two instances to listen", lambda: both_listen(one))
    assert found is not None
    for child in found:
        flags = child.cmdline()
        assert [f for f in flags if "inter_op" in f][-1] == "--tensorflow_inter_op_parallelism=5"
        assert [f for f in flags if "intra_op" in f][-1] == f"--tensorflow_intra_op_parallelism={max(1, cpus() // 2)}"
    with asking(one, 40):
        assert all(connections(child, one.rest_port, psutil.CONN_ESTABLISHED) for child in found)
    with contextlib.ExitStack() as stack:
        for number in range(40):
            # Channels of one process share connections unless their arguments differ.
            options = [("grpc.use_local_subchannel_pool", 1), ("of.the.test", number)]
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{one.grpc_port}", options))
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "default"
            status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=PATIENCE)
            assert [v.version for v in status.model_version_status] == [3]
        assert all(connections(child, one.grpc_port, psutil.CONN_ESTABLISHED) for child in found)

    found[0].kill()
    wait_for("the kill to be noticed", lambda: "it is started again" in one.said())
    with asking(one, 10):
        assert connections(found[1], one.rest_port, psutil.CONN_ESTABLISHED) == 10
    again = wait_for("it to come back", lambda: both_listen(one, gone=found[0].pid))
    assert again is not None and found[1].pid in [child.pid for child in again]
    with asking(one, 40):
        assert all(connections(child, one.rest_port, psutil.CONN_ESTABLISHED) for child in again)

    assert one.end() == 0
    assert not any(child.is_running() for child in again)


def test_sigterm_drains_all(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    flags = (f"--model_base_path={models / 'gated'}", "--tensorflow_session_parallelism=8", "--grpc_transport=grpcio")
    one = start("--instances=2", *flags).wait_until_ready()
    found = wait_for("two instances to listen", lambda: both_listen(one))
    assert found is not None
    answers: list[object] = []

    def ask(gate: Path) -> None:
        answers.append(one.call("POST", "/v1/models/default:predict", {"inputs": str(gate)}))

    gates = [tmp_path / f"gate{number}" for number in range(6)]
    threads = [threading.Thread(target=ask, args=(gate,)) for gate in gates]
    for thread in threads:
        thread.start()
    waits = [gate.with_name(f"{gate.name}.waits") for gate in gates]
    wait_for("the requests to run", lambda: all(file.exists() for file in waits))
    one.process.send_signal(signal.SIGTERM)
    wait_for("the ports to be closed", lambda: not any(connections(c, one.rest_port, "LISTEN") for c in found))
    for gate in gates:
        gate.touch()
    for thread in threads:
        thread.join(PATIENCE)
    assert one.process.wait(PATIENCE) == 0
    assert [getattr(answer, "status", None) for answer in answers] == [200] * len(gates), answers
    assert one.said().count("Draining") == 2


@pytest.mark.parametrize("owned", [False, True])
def test_nothing_is_left(start: Callable[..., Tfserve], models: Path, owned: bool) -> None:
    """The parent is killed, or its owner is gone."""
    one = start("--instances=2", f"--model_base_path={models / 'affine'}", owned=owned).wait_until_ready()
    found = children(one)
    assert len(found) == 2
    if owned:
        os.close(one.owner_pipe)
        assert one.process.wait(PATIENCE) == 1
    else:
        one.process.kill()
    # At once where the machine has time for it.
    _, left = psutil.wait_procs(found, 10)
    assert not left


def test_none_can_start(tmp_path: Path) -> None:
    done = run("--instances=2", f"--model_base_path={tmp_path / 'nosuch'}", f"--port={free_ports(1)[0]}")
    assert done.returncode == 1
    assert "no instance could start" in done.stderr and "Could not find base path" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port(models: Path) -> None:
    """Said before anything is started; also where the other server would have shared it."""
    rest = free_ports(1)[0]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", rest))
        taken.listen()
        done = run("--instances=2", f"--model_base_path={models / 'affine'}", "--port=0", f"--rest_api_port={rest}")
    assert done.returncode == 1
    assert f"REST cannot listen on 127.0.0.1:{rest}" in done.stderr and "Choose another port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--store=x", "--store belongs to one process and cannot be used with --instances=2"),
        ("--management_socket=x", "--management_socket belongs to one process"),
        ("--grpc_socket_path=x", "--grpc_socket_path belongs to one process"),
        ("--instances=0", "--instances takes a number from 1 on, not 0"),
    ],
)
def test_what_does_not_go_together(flag: str, said: str) -> None:
    done = run("--instances=2", flag)
    assert done.returncode == 2
    assert said in done.stderr
