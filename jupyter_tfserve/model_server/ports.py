"""Binding the ports that the flags name. Used by the program."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TypeVar

from .errors import StartFailed
from .flags import PORTS_TRIED

log = logging.getLogger("tfserve")

Bound = TypeVar("Bound")


class Ports:
    """What the program listens on; where a port was taken and another one was found, `notices` say so."""

    def __init__(self, host: str, find_free: bool, reuse: bool) -> None:
        """`find_free`: --find_free_ports; `reuse`: other instances share the ports."""
        self._host = host
        self._find_free = find_free
        self._reuse = reuse
        self.notices: list[str] = []

    def tcp(self, what: str, port: int) -> tuple[int, socket.socket]:
        """A listening socket, and its port. Raises StartFailed."""
        return self.first_free(what, port, self._bind_tcp)

    def address(self, port: int) -> str:
        """Host and port as gRPC takes them."""
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    def first_free(self, what: str, port: int, bind: Callable[[int], Bound]) -> tuple[int, Bound]:
        """Bind the port, or with --find_free_ports the first free one after it; a change is said aloud. `bind` raises
        OSError where a port is taken. Raises StartFailed.
        """
        last = port + PORTS_TRIED if self._find_free else port
        failed: OSError | None = None
        for candidate in range(port, min(last, 65535) + 1):
            try:
                bound = bind(candidate)
            except OSError as taken:
                failed = taken
                continue
            if candidate != port:
                self.notices.append(f"Port {port} was taken: {what} answers on {candidate}.")
                log.warning(self.notices[-1])
            log.info("%s on %s:%d", what, self._host, candidate)
            return candidate, bound
        raise StartFailed(f"{what} cannot listen on {self._host}:{port}: {failed}. Choose another port.")

    def _bind_tcp(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            tcp.bind((self._host, port))
            tcp.listen(1024)
        except OSError:
            tcp.close()
            raise
        return tcp
