"""A log that is followed: it goes on over a restart, and ends with its reader."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path

import psutil
from helpers import wait_for
from jupyter_process import HEADERS, JupyterServer, open_files


def test_it_is_followed_over_a_restart(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    jupyter = start_jupyter()
    jupyter.register(models / "affine" / "1", "affine")
    server = psutil.Process(jupyter.process.pid)
    jupyter.state()
    before = open_files(server)
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=60)
    connection.request("GET", "/tfserve/api/logs?follow=true&lines=1", headers=HEADERS)
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/plain; charset=utf-8"
    assert b"is available" in answer.readline()
    jupyter.call("POST", "/tfserve/api/server", {"action": "restart"})
    lines = []
    while not lines or b"is available" not in lines[-1]:
        lines.append(answer.readline())
        assert lines[-1]
    text = b"".join(lines)
    assert text.index(b"Draining") < text.index(b"Ended") < text.index(b"Loading version 1 of affine")
    answer.close()
    connection.close()
    wait_for("the reader's files to be closed", lambda: open_files(server) <= before + 1)  # + 1: one more idle upstream


def test_it_ends_with_the_jupyter_server(start_jupyter: Callable[..., JupyterServer], models: Path) -> None:
    jupyter = start_jupyter()
    jupyter.register(models / "affine" / "1", "affine")
    connection = http.client.HTTPConnection("127.0.0.1", jupyter.port, timeout=60)
    connection.request("GET", "/tfserve/api/logs?follow=true&lines=5", headers=HEADERS)
    answer = connection.getresponse()
    assert answer.readline()
    assert jupyter.end() == 0
    answer.read()
    connection.close()


def test_lines_are_checked(jupyter: JupyterServer) -> None:
    for lines in ("0", "x", "100000"):
        assert jupyter.call("GET", f"/tfserve/api/logs?follow=true&lines={lines}").status == 400
