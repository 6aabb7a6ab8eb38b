"""The notebook panel, a file for each of its parts: see `panel.py`."""

from .panel import Panel

__all__ = ["Panel"]
