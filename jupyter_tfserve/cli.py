"""`jupyter tfserve ...` on a command line: `hub-config` for a JupyterHub's admin, `tunnel` for who calls a model."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ._version import __version__
from .hub_config import SNIPPET

#: Where the tunnel finds the token: a command line can be read by every user of a machine.
TOKEN = "TFSERVE_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="jupyter tfserve", description="TensorFlow Serving's API, inside Jupyter.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("hub-config", help="print what lets a JupyterHub's users share predictions")
    tunnel = commands.add_parser(
        "tunnel",
        help="a local gRPC port that reaches models behind a Jupyter Server or a JupyterHub",
        description=f"The token is read from the environment variable {TOKEN}, or from --token-file. Whoever can reach "
        "the local port predicts with it: on a machine with other users, use --socket.",
    )
    tunnel.add_argument("url", metavar="URL", help="the Jupyter Server, or one of its models: https://hub/user/ann")
    where = tunnel.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=8500, help="on 127.0.0.1; 0: any free one (default: 8500)")
    where.add_argument("--socket", metavar="PATH", help="a Unix socket, for your user alone, instead of a port")
    tunnel.add_argument("--token-file", metavar="PATH", type=Path, help="a file with the token")
    given = parser.parse_args(arguments)
    if given.command == "hub-config":
        sys.stdout.write(SNIPPET)
        return 0
    return _tunnel(given)


def _tunnel(given: argparse.Namespace) -> int:
    from .tunnel import TunnelError, serve

    try:
        token = given.token_file.read_text().strip() if given.token_file else os.environ.get(TOKEN, "")
        if not token:
            raise TunnelError("There is no token.", f"Set {TOKEN}, or name a file with --token-file.")
        if given.socket:
            os.umask(0o177)
        address = f"unix:{given.socket}" if given.socket else f"127.0.0.1:{given.port}"
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(given.url, token, address))
    except TunnelError as error:
        sys.stderr.write(f"jupyter tfserve tunnel: {error.message} {error.remedy}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"jupyter tfserve tunnel: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
