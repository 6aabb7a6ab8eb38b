"""Small pictures as inline SVG: a sparkline, and bars. They take the colours of the page (JupyterLab's variables, else
the text's colour), say what they show in words (`role="img"` with a label), and do not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH = 120
_HEIGHT = 28
_COLOR = "var(--jp-brand-color1,currentColor)"


def sparkline(values: Sequence[float | None], label: str, length: int = 60) -> str:
    """The last `length` values, one a second, the newest at the right; None is a gap. `label` says it in words."""
    shown = list(values)[-length:]
    top = max((value for value in shown if value is not None), default=0.0) or 1.0
    step = _WIDTH / max(1, length - 1)
    start = _WIDTH - step * (len(shown) - 1)
    paths: list[str] = []
    areas: list[str] = []
    line: list[str] = []
    for at, value in enumerate([*shown, None]):
        if value is not None:
            x, y = start + at * step, _HEIGHT - 2 - (_HEIGHT - 4) * value / top
            line.append(f"{x:.4g} {y:.4g}")
        elif line:
            points = line if len(line) > 1 else [line[0], line[0]]  # one second alone is a dot
            paths.append("M" + "L".join(points))
            if len(line) > 1:
                left, right = line[0].split()[0], line[-1].split()[0]
                areas.append(f"M{left} {_HEIGHT}L{'L'.join(line)}L{right} {_HEIGHT}Z")
            line = []
    inside = (
        f"<path d='{''.join(areas)}' fill='{_COLOR}' opacity='.15'/>"
        f"<path d='{''.join(paths)}' fill='none' stroke='{_COLOR}' stroke-width='1.5' stroke-linejoin='round' "
        "stroke-linecap='round' vector-effect='non-scaling-stroke'/>"
    )
    return _svg(inside, label)


def bars(counts: Mapping[str, float], label: str) -> str:
    """A bar for each key, in their order, with the key below it."""
    top = max(counts.values(), default=0.0) or 1.0
    width = _WIDTH / max(4, len(counts))
    inside = []
    for at, (key, count) in enumerate(counts.items()):
        height = (_HEIGHT - 10) * count / top
        if count:
            height = max(1.0, height)
        inside.append(
            f"<rect x='{at * width + 1:.4g}' y='{_HEIGHT - 9 - height:.4g}' width='{width - 2:.4g}' "
            f"height='{height:.4g}' fill='{_COLOR}'/>"
            f"<text x='{(at + 0.5) * width:.4g}' y='{_HEIGHT - 1}' font-size='8' text-anchor='middle' "
            f"fill='currentColor'>{escape(key)}</text>"
        )
    return _svg("".join(inside), label)


def _svg(inside: str, label: str) -> str:
    words = escape(label, quote=True)
    return (
        f"<svg role='img' aria-label='{words}' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' "
        f"preserveAspectRatio='none' class='jp-jupyter-tfserve-chart'><title>{words}</title>{inside}</svg>"
    )
