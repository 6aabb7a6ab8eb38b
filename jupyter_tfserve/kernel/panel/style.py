"""How the panel looks: a style sheet in the page, with JupyterLab's colours where there are any, else the page's."""

from __future__ import annotations

#: What every class of ours begins with.
PREFIX = "jp-jupyter-tfserve-"

CSS = """<style>
.jp-jupyter-tfserve-panel {
  --tfs-dim: var(--jp-ui-font-color2, rgba(97, 97, 97, 1));
  --tfs-line: var(--jp-border-color2, rgba(128, 128, 128, .4));
  --tfs-soft: var(--jp-layout-color2, rgba(128, 128, 128, .1));
  --tfs-good: var(--jp-success-color1, #388e3c);
  --tfs-busy: var(--jp-warn-color1, #f57c00);
  --tfs-bad: var(--jp-error-color1, #d32f2f);
  color: var(--jp-ui-font-color1, inherit);
  border: 1px solid var(--tfs-line); border-radius: 4px; padding: 10px 14px; max-width: 64em; gap: 8px;
  overflow: visible;
}
.jp-jupyter-tfserve-panel .widget-html-content { line-height: 1.45; }
.jp-jupyter-tfserve-panel .widget-html, .jp-jupyter-tfserve-panel .jupyter-widget-html { overflow: visible; }
.jp-jupyter-tfserve-panel .widget-label, .jp-jupyter-tfserve-panel label { color: inherit; }
.jp-jupyter-tfserve-panel .widget-box, .jp-jupyter-tfserve-panel .jupyter-widget-box { overflow: visible; }
.jp-jupyter-tfserve-panel .widget-html:has(> .widget-html-content:empty) { display: none; }
.jp-jupyter-tfserve-panel .widget-toggle-buttons { border-bottom: 1px solid var(--tfs-line); width: auto; }
.jp-jupyter-tfserve-panel .widget-toggle-buttons .widget-toggle-button { background: none; box-shadow: none;
  color: inherit; border-bottom: 3px solid transparent; margin: 0; padding: 0 12px; }
.jp-jupyter-tfserve-panel .widget-toggle-buttons .widget-toggle-button.mod-active { font-weight: 600;
  border-bottom-color: var(--jp-brand-color1, currentColor); }
.jp-jupyter-tfserve-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.jp-jupyter-tfserve-copy { font: inherit; padding: 2px 12px; border: 1px solid var(--tfs-line); border-radius: 2px;
  background: var(--tfs-soft); color: inherit; cursor: pointer; margin-bottom: 4px; }
.jp-jupyter-tfserve-panel button:focus-visible, .jp-jupyter-tfserve-panel [tabindex]:focus-visible {
  outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px;
}
.jp-jupyter-tfserve-dim { color: var(--tfs-dim); font-size: .92em; }
.jp-jupyter-tfserve-bad { color: var(--jp-error-color0, var(--tfs-bad)); }
.jp-jupyter-tfserve-dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em;
  background: var(--tfs-line); }
.jp-jupyter-tfserve-dot.good { background: var(--tfs-good); }
.jp-jupyter-tfserve-dot.busy { background: var(--tfs-busy); }
.jp-jupyter-tfserve-dot.bad { background: var(--tfs-bad); }
.jp-jupyter-tfserve-numbers { display: flex; flex-wrap: wrap; gap: 6px 22px; }
.jp-jupyter-tfserve-numbers figure { margin: 0; min-width: 120px; }
.jp-jupyter-tfserve-numbers figcaption { font-size: .85em; color: var(--tfs-dim); display: flex;
  justify-content: space-between; gap: 1em; }
.jp-jupyter-tfserve-numbers figcaption b { color: var(--jp-ui-font-color1, inherit); font-weight: 600;
  font-variant-numeric: tabular-nums; }
.jp-jupyter-tfserve-chart { display: block; }
.jp-jupyter-tfserve-version { display: grid; grid-template-columns: minmax(7em, auto) 7.5em 1fr; gap: 0 1em;
  align-items: baseline; padding: 3px 0; }
.jp-jupyter-tfserve-version > .wide { grid-column: 1 / -1; }
.jp-jupyter-tfserve-version b { font-variant-numeric: tabular-nums; }
.jp-jupyter-tfserve-chip { border: 1px solid var(--tfs-line); border-radius: 9px; padding: 0 7px; font-size: .88em;
  margin-right: 4px; white-space: nowrap; }
.jp-jupyter-tfserve-device { display: flex; flex-wrap: wrap; gap: 0 1.5em; padding: 3px 0;
  border-bottom: 1px solid var(--tfs-line); }
.jp-jupyter-tfserve-row { border-bottom: 1px solid var(--tfs-line); align-items: center; }
.jp-jupyter-tfserve-row > :first-child { flex: 1 1 auto; min-width: 0; }
.jp-jupyter-tfserve-row > button { flex: 0 0 auto; max-width: none; overflow: visible; }
.jp-jupyter-tfserve-table, .jp-jupyter-tfserve-scores { border-collapse: collapse; margin: 2px 0 6px; }
.jp-jupyter-tfserve-table td, .jp-jupyter-tfserve-table th, .jp-jupyter-tfserve-scores th {
  text-align: left; padding: 1px 12px 1px 0; font-weight: normal; vertical-align: top; background: none; }
.jp-jupyter-tfserve-table td { font-variant-numeric: tabular-nums; }
.jp-jupyter-tfserve-table th, .jp-jupyter-tfserve-scores th { color: var(--tfs-dim); }
.jp-jupyter-tfserve-scores td:nth-child(2) { width: 180px; }
.jp-jupyter-tfserve-bar { display: block; height: .8em; min-width: 1px; border-radius: 2px;
  background: var(--jp-brand-color1, currentColor); }
.jp-jupyter-tfserve-number { padding-left: 8px; font-variant-numeric: tabular-nums; }
.jp-jupyter-tfserve-image { image-rendering: pixelated; margin: 2px 8px 4px 0; border: 1px solid var(--tfs-line);
  max-width: 100%; }
.jp-jupyter-tfserve-code, .jp-jupyter-tfserve-log { font-family: var(--jp-code-font-family, monospace);
  font-size: .92em; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.jp-jupyter-tfserve-code { background: var(--tfs-soft); padding: 6px 8px; border-radius: 3px; }
.jp-jupyter-tfserve-logbox { background: var(--tfs-soft); border-radius: 3px; display: flex;
  flex-direction: column-reverse; }
.jp-jupyter-tfserve-panel textarea { font-family: var(--jp-code-font-family, monospace); }
.jp-jupyter-tfserve-panel h4 { margin: 4px 0 2px; font-size: 1em; font-weight: 600; color: inherit; }
@media (prefers-reduced-motion: reduce) {
  .jp-jupyter-tfserve-panel * { transition: none !important; animation: none !important; }
}
</style>"""
