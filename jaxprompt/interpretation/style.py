"""What the page of a report looks like: light, in the colours of the figures, without anything fetched."""

from __future__ import annotations

from jaxprompt.evaluation.curves import COLOURS, GRID, INK

STYLE = f"""
body {{ margin: 0 auto; padding: 24px 28px 80px; max-width: 1180px; color: {INK}; background: #fff;
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
h1 {{ font-size: 24px; margin: 0 0 4px; }}
h2 {{ font-size: 18px; margin: 36px 0 8px; border-bottom: 2px solid {GRID}; padding-bottom: 4px; }}
h3 {{ font-size: 14px; margin: 22px 0 6px; }}
p {{ margin: 4px 0 10px; max-width: 860px; }}
.note {{ color: #6b6963; font-size: 13px; }}
nav a {{ color: {COLOURS[0]}; margin-right: 14px; }}
table {{ border-collapse: collapse; margin: 6px 0 12px; }}
th, td {{ text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid {GRID}; }}
th {{ font-weight: 600; font-size: 12px; color: #6b6963; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.cell, th.cell {{ text-align: center; padding: 5px 8px; border: 1px solid #fff; min-width: 44px;
  font-variant-numeric: tabular-nums; }}
.row {{ display: flex; flex-wrap: wrap; gap: 8px 36px; align-items: flex-start; }}
.row > div {{ max-width: 100%; overflow-x: auto; }}
.near {{ display: inline-block; margin: 0 5px 3px 0; padding: 0 5px; border-radius: 4px; background: #f4f3f1;
  white-space: pre; font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px; }}
.near small {{ color: #8a8781; margin-left: 5px; font-size: 10.5px; }}
.label {{ background: #fdebdc; box-shadow: inset 0 0 0 1px {COLOURS[1]}; }}
.legend span {{ margin-right: 16px; font-size: 12px; }}
.legend i {{ display: inline-block; width: 14px; height: 3px; margin-right: 5px; vertical-align: middle; }}
.missing {{ background: #fbf6e9; border-left: 3px solid {COLOURS[1]}; padding: 8px 12px; max-width: 860px;
  overflow-wrap: anywhere; }}
details > summary {{ cursor: pointer; font-weight: 600; margin: 14px 0 6px; }}
code {{ display: inline-block; }}
code {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 12px;
  background: #f4f3f1; padding: 1px 4px; border-radius: 4px; overflow-wrap: anywhere; }}
svg {{ max-width: 100%; height: auto; display: block; }}
svg text {{ font-family: system-ui, "DejaVu Sans", sans-serif; }}
"""
