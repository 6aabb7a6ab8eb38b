"""Draws docs/picture-light.svg and docs/picture-dark.svg: `python docs/picture.py`."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

LIGHT = {
    "ink": "#1f2328", "dim": "#59636e", "line": "#8c959f", "box": "#f6f8fa", "edge": "#d1d9e0",
    "cell": "#ffffff", "accent": "#c4500c", "soft": "#fbe3d3", "good": "#1a7f37", "old": "#afb8c1",
}  # fmt: skip
DARK = {
    "ink": "#e6edf3", "dim": "#9198a1", "line": "#7d8590", "box": "#151b23", "edge": "#3d444d",
    "cell": "#0d1117", "accent": "#ff9e57", "soft": "#4a2a14", "good": "#3fb950", "old": "#656c76",
}  # fmt: skip
SANS = "-apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
TITLE = "A notebook registers a model; the model server answers over REST and gRPC; versions change without a gap"


def draw(colours: dict[str, str]) -> str:
    """The picture in the given colours, as SVG."""
    parts: list[str] = []

    def text(x: float, y: float, words: str, size: int = 14, colour: str = "ink", **more: str) -> None:
        extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        parts.append(f'<text x="{x}" y="{y}" font-size="{size}" fill="{colours[colour]}"{extra}>{escape(words)}</text>')

    def box(
        x: float, y: float, width: float, height: float, fill: str = "box", stroke: str = "edge", r: int = 8
    ) -> None:
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{r}" fill="{colours[fill]}" '
            f'stroke="{colours[stroke]}"/>'
        )

    def arrow(path: str, colour: str = "line") -> None:
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colours[colour]}" stroke-width="1.6" marker-end="url(#{colour})"/>'
        )

    # The notebook.
    box(20, 40, 262, 232)
    text(36, 66, "your notebook", 15, font_weight="600")
    text(266, 66, "kernel", 12, "dim", text_anchor="end")
    for y, code in (
        (82, ("model.fit(images, digits)",)),
        (142, ("%load_ext jupyter_tfserve", "%tfserve digits model")),
    ):
        box(36, y, 230, 24 + 20 * len(code), "cell", r=4)
        for row, line in enumerate(code):
            own = line.startswith("%tfserve")
            text(48, y + 26 + 20 * row, line, 13, "accent" if own else "ink", font_family=MONO)
    text(36, 234, "the model is exported, its version", 12, "dim")
    text(36, 251, "is the time, the notebook stays with it", 12, "dim")

    # The model server.
    box(392, 40, 250, 232)
    text(408, 66, "model server", 15, font_weight="600")
    text(626, 66, "its own process", 12, "dim", text_anchor="end")
    box(408, 82, 218, 42, "cell", r=4)
    text(420, 108, "digits / 1792000000", 13, "dim", font_family=MONO)
    text(616, 108, "leaves", 12, "dim", text_anchor="end")
    box(408, 134, 218, 42, "soft", "accent", r=4)
    text(420, 160, "digits / 1792000060", 13, font_family=MONO)
    text(616, 160, "live", 12, "accent", text_anchor="end", font_weight="600")
    text(408, 206, "the new version is ready before the", 12, "dim")
    text(408, 223, "old one goes; a version in use stays", 12, "dim")
    text(408, 240, "until its last answer is sent", 12, "dim")

    arrow("M282 176 H 388", "accent")
    text(335, 166, "register", 12, "accent", text_anchor="middle")

    # The clients.
    clients = (
        (40, "REST through Jupyter", "/tfserve/v1/models/digits:predict"),
        (124, "REST, direct", ":8501/v1/models/digits:predict"),
        (208, "gRPC, direct", ":8500 PredictionService.Predict"),
    )
    for y, name, address in clients:
        box(744, y, 276, 64)
        text(760, y + 27, name, 14, font_weight="600")
        text(760, y + 48, address, 12, "dim", font_family=MONO)
    for y, bend in ((72, 110), (156, 156), (240, 202)):
        arrow(f"M744 {y} C 700 {y}, 690 {bend}, 646 {bend}")

    # The stream of answers.
    text(20, 318, "answers to one question, again and again", 12, "dim")
    for i in range(100):
        fill = "old" if i < 58 else "accent"
        parts.append(f'<rect x="{20 + 10 * i}" y="330" width="7" height="16" rx="1.5" fill="{colours[fill]}"/>')
    text(20, 366, "version 1792000000", 12, "dim")
    text(600, 366, "version 1792000060", 12, "accent")
    text(1020, 366, "no request fails; the answer changes once", 12, "good", text_anchor="end")

    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 Z" fill="{colours[name]}"/></marker>'
        for name in ("line", "accent")
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 20 1040 362" font-family="{SANS}" role="img">'
        f"<title>{TITLE}</title><defs>{markers}</defs>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        Path(__file__).with_name(f"picture-{name}.svg").write_text(draw(colours))
