"""The `tfserve` program: start, ports, versions under load, drain, the owner's end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from helpers import PATIENCE, StoreServer, Tfserve, environment, free_ports, publish, wait_for


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jupyter_tfserve.model_server", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )


def test_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert "TensorFlow ModelServer: " in done.stdout
    assert "TensorFlow Library: " in done.stdout


def test_nothing_loaded_ends_the_start(tmp_path: Path) -> None:
    done = run("--model_base_path=" + str(tmp_path / "nosuch"), "--port=0")
    assert done.returncode == 1
    assert "1 servable(s) did not become available" in done.stderr
    assert "Could not find base path" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port(start: Callable[..., Tfserve], models: Path) -> None:
    rest = free_ports(1)[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", rest))
        taken.listen()
        flags = (f"--model_base_path={models / 'affine'}", "--port=0", f"--rest_api_port={rest}")
        done = run(*flags)
        assert done.returncode == 1
        assert f"127.0.0.1:{rest}" in done.stderr and "Choose another port" in done.stderr
        one = start(*flags, "--find_free_ports", ports=False).wait_until_ready()
        assert one.rest_port > rest
        assert one.notices == [f"Port {rest} was taken: REST answers on {one.rest_port}."]
        assert one.predict("default", [1.0]) == [4.0]


def test_new_versions_take_over_under_load(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    base = tmp_path / "m"
    publish(models / "affine" / "1", base, 1)
    one = start(f"--model_base_path={base}").wait_until_ready()
    answers: list[float] = []
    failures: list[object] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            answer = one.call("POST", "/v1/models/default:predict", {"instances": [0.0]})
            if answer.status != 200:
                failures.append(answer)
            elif not answers or answers[-1] != answer.json["predictions"][0]:
                answers.append(answer.json["predictions"][0])

    asking = threading.Thread(target=ask)
    asking.start()
    for version in (2, 3):
        publish(models / "affine" / str(version), base, version)
        one.wait_available("default", version)
    wait_for("the last version to answer", lambda: answers[-1:] == [3.0])
    end.set()
    asking.join()
    assert failures == []
    assert answers == [1.0, 2.0, 3.0]


def test_sigterm_drains(start: Callable[..., Tfserve], models: Path, tmp_path: Path) -> None:
    one = start(f"--model_base_path={models / 'gated'}").wait_until_ready()
    gate = tmp_path / "gate"
    answers: list[object] = []
    asking = threading.Thread(
        target=lambda: answers.append(one.call("POST", "/v1/models/default:predict", {"inputs": str(gate)}))
    )
    asking.start()
    wait_for("the request to run", Path(f"{gate}.waits").exists)
    one.process.terminate()

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", one.rest_port), 1).close()
        except OSError:
            return True
        return False

    wait_for("new connections to be refused", refused)
    assert one.process.poll() is None
    gate.touch()
    asking.join(PATIENCE)
    assert getattr(answers[0], "status", None) == 200, answers
    assert one.process.wait(PATIENCE) == 0


def test_it_ends_with_its_owner(start: Callable[..., Tfserve], models: Path) -> None:
    one = start(f"--model_base_path={models / 'affine'}", owned=True).wait_until_ready()
    os.close(one.owner_pipe)  # what the kernel does when the owner is killed
    assert one.process.wait(2) != 0


def test_old_versions_are_removed_as_asked(start_store: Callable[..., StoreServer], models: Path) -> None:
    one = start_store()
    one.wait_until_ready()
    for version in (1, 2, 3):
        one.register(models / "affine" / "1", "m", version, keep_versions=2)
    wait_for(
        "the oldest version to go",
        lambda: {p.name for p in (one.store / "m").iterdir() if p.name.isdigit()} == {"2", "3"},
    )
    one.register(models / "affine" / "2", "all", 1)
    one.register(models / "affine" / "3", "all", 2)
    assert (one.store / "all" / "1").exists()


def test_two_servers_on_one_store(start_store: Callable[..., StoreServer], models: Path) -> None:
    first = start_store()
    first.wait_until_ready()
    second = start_store(store=first.store)
    second.wait_until_ready()
    for number in range(4):
        publish(models / "affine" / "1", first.store / f"m{number}", 1)

    def register(server: StoreServer, names: list[str]) -> None:
        with server.client() as client:
            for name in names:
                client.register(name, {})

    threads = [
        threading.Thread(target=register, args=(first, ["m0", "m1"])),
        threading.Thread(target=register, args=(second, ["m2", "m3"])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for server in (first, second):
        for number in range(4):
            server.wait_available(f"m{number}", 1)
