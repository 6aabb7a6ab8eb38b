"""TensorFlow Serving's API, inside Jupyter: what Jupyter and IPython look up. Importing this is cheap: no
TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .kernel.endpoint import Endpoint
    from .kernel.panel import Panel

__all__ = ["Panel", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """`Panel` brings ipywidgets: it is imported when it is asked for."""
    if name == "Panel":
        from .kernel.panel import Panel

        return Panel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from .extension.app import TFServe

    return [{"module": "jupyter_tfserve", "app": TFServe}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "jupyter_tfserve"}]


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """``%load_ext jupyter_tfserve``: gives the kernel `%tfserve` and `%%tfserve`."""
    from .kernel.magic import TFServeMagics

    ipython.register_magics(TFServeMagics)


def connect(url: str = "", token: str = "") -> Endpoint:
    """The endpoint that `%tfserve` uses: this kernel's Jupyter Server, else a model server that the kernel owns.

    With `url` (what stands before ``/v1`` and ``/api``) and `token`, that Jupyter Server.
    """
    from .kernel.endpoint import connect

    return connect(url, token)
