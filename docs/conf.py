"""Sphinx: `make docs`."""

from jupyter_tfserve import __version__

project = "jupyter_tfserve"
author = "the jupyter_tfserve developers"
copyright = f"2026, {author}"
release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
html_theme = "pydata_sphinx_theme"
html_title = "jupyter_tfserve"
html_extra_path = ["openapi.yaml"]
