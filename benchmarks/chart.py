"""Draws docs/performance-light.svg and -dark.svg from the medians of a run. Called by `report.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from .names import BARE, OURS, PROTOBUF, THROUGH_JUPYTER

if TYPE_CHECKING:
    from .report import Medians

LIGHT = {"ink": "#1f2328", "dim": "#59636e", "ours": "#c4500c", "theirs": "#afb8c1", "bare": "#d8dee4"}
DARK = {"ink": "#e6edf3", "dim": "#9198a1", "ours": "#ff9e57", "theirs": "#656c76", "bare": "#3d444d"}
SANS = "-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"
TITLE = "Predictions a second on one core: jupyter_tfserve beside other servers"

_WIDTH, _LABEL, _BAR, _LINE, _GAP = 1040, 225, 200, 22, 40


@dataclass(frozen=True)
class _Panel:
    title: str
    protocol: str
    work: str
    in_flight: int


_PANELS = (
    _Panel("x / 2 + 2, REST, 32 in flight", "REST", "half_plus_two", 32),
    _Panel("x / 2 + 2, gRPC, 32 in flight", "gRPC", "half_plus_two", 32),
    _Panel("784-512-512-10, REST, 32 in flight", "REST", "mlp", 32),
    _Panel("784-512-512-10, gRPC, 32 in flight", "gRPC", "mlp", 32),
    _Panel("x / 2 + 2, REST, one connection", "REST", "half_plus_two", 1),
    _Panel("x / 2 + 2, gRPC, one connection", "gRPC", "half_plus_two", 1),
    _Panel("image as JSON, one connection", "REST", "image", 1),
    _Panel("image over gRPC, one connection", "gRPC", "image", 1),
)


def draw(medians: Medians) -> dict[str, str]:
    """The picture in both colours, as SVG, by name."""
    return {"light": _draw(medians, LIGHT), "dark": _draw(medians, DARK)}


def _bars(medians: Medians, panel: _Panel) -> list[tuple[str, float]]:
    """Servers that run a model, fastest first."""
    found = []
    for protocol, work, in_flight, target in medians.keys:
        if (protocol, work, in_flight) != (panel.protocol, panel.work, panel.in_flight):
            continue
        if target.startswith("empty") or target == PROTOBUF:
            continue
        found.append((target, medians.get(protocol, work, in_flight, target) or 0.0))
    return sorted(found, key=lambda bar: -bar[1])


def _draw(medians: Medians, colours: dict[str, str]) -> str:
    parts: list[str] = []

    def text(x: float, y: float, words: str, size: int, colour: str, **more: str) -> None:
        extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colours[colour]}"{extra}>{escape(words)}</text>'
        )

    panels = [(panel, bars) for panel in _PANELS if (bars := _bars(medians, panel))]
    y = 30.0
    for row in range(0, len(panels), 2):
        pair = panels[row : row + 2]
        for column, (panel, bars) in enumerate(pair):
            left, top = column * (_WIDTH / 2 + 10), y
            text(left, top, panel.title, 15, "ink", font_weight="600")
            scale = _BAR / max(rate for _, rate in bars)
            for index, (target, rate) in enumerate(bars):
                middle = top + 14 + _LINE * (index + 0.5)
                ours = target in (OURS, THROUGH_JUPYTER)
                fill = "ours" if ours else "bare" if target == BARE else "theirs"
                weight = {"font_weight": "600"} if ours else {}
                text(left + _LABEL - 8, middle + 4, target, 12, "ink" if ours else "dim", text_anchor="end", **weight)
                parts.append(
                    f'<rect x="{left + _LABEL:g}" y="{middle - 7:g}" width="{max(1.0, rate * scale):.1f}" height="14" '
                    f'rx="2" fill="{colours[fill]}"/>'
                )
                number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
                text(left + _LABEL + max(1.0, rate * scale) + 6, middle + 4, number, 12, "ink" if ours else "dim")
        y += 14 + _LINE * max(len(bars) for _, bars in pair) + _GAP
    machine = medians.told["machine"]
    text(
        0, y - 8,
        f"predictions a second; server on one core of {machine['processor']}, load on another; {machine['when']}",
        12, "dim",
    )  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 8:g}" font-family="{SANS}" role="img">'
        f"<title>{TITLE}</title>{''.join(parts)}</svg>\n"
    )
