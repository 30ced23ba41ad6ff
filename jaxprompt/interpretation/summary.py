"""A report as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {"average_tokens": "cosine of average tokens", "per_token": "per-token average cosine"}
"""SPoT's measures of similarity, in words."""

_SHOWN = 5


def to_text(report: Mapping[str, Any]) -> str:
    """The report of `interpret` for people.

    Args:
        report: what `interpret` found.
    """
    prompts = report["prompts"]
    blocks = [
        _table(("prompt", "task", "init", "length", "norm", "cosine of tokens"), [_overview(one) for one in prompts])
    ]
    blocks += [_words(one) for one in prompts if "neighbours" in one]
    blocks += [f"{one['name']}: {one['no_neighbours']}" for one in prompts if "no_neighbours" in one]
    blocks += _between(report["similarity"])
    if report["labels_by_init"]:
        shares = ("prompts_with_label", "tokens_with_label", "chance", "kept")
        rows = [
            (init, str(row["prompts"]), *(share(row[key]) for key in shares))
            for init, row in report["labels_by_init"].items()
        ]
        heads = ("labels by init", "prompts", "prompts near one", "tokens near one", "chance", "kept")
        blocks.append(_table(heads, rows))
    blocks += [_sources(target, sources, report["measure"]) for target, sources in report["closest"].items()]
    return "\n\n".join(blocks)


def share(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def _overview(one: Mapping[str, Any]) -> tuple[str, ...]:
    alike = "-" if one["mean_similarity"] is None else f"{one['mean_similarity']:.3f}"
    norm = f"{one['norm']['mean']:.2f} ± {one['norm']['sd']:.2f}"
    return one["name"], one["task"] or "-", one["init"] or "-", str(one["length"]), norm, alike


def _between(similarity: Mapping[str, Any]) -> list[str]:
    if len(names := similarity["names"]) < 2:
        return []
    blocks = []
    for measure, title in TITLES.items():
        rows = [
            (name, *("-" if value is None else f"{value:.3f}" for value in row))
            for name, row in zip(names, similarity[measure], strict=True)
        ]
        blocks.append(f"similarity of prompts, {title}\n{_table(('', *names), rows)}")
    return blocks


def _sources(target: str, sources: Sequence[Mapping[str, Any]], measure: str) -> str:
    rows = [(one["name"], one["task"] or "-", *(f"{one[name]:.3f}" for name in TITLES)) for one in sources]
    return (
        f"sources for {target}, ordered by {TITLES[measure]}\n{_table(('source', 'task', *TITLES.values()), rows)}\n"
        f"to start from the closest: {sources[0]['flags']}"
    )


def _words(one: Mapping[str, Any]) -> str:
    found = one["clusters"]
    model, of_words = one["vocabulary"]["model"], one["vocabulary"]["norm"]
    lines = [f"{one['name']}: words of {model}, whose norm is {of_words['mean']:.2f} ± {of_words['sd']:.2f}"]
    for slot, row in enumerate(one["neighbours"]["cosine"][:_SHOWN]):
        lines.append(f"  {slot:>3}  " + "  ".join(f"{near['token']} {near['value']:.2f}" for near in row[:_SHOWN]))
    if one["length"] > _SHOWN:
        lines.append(f"  … and {one['length'] - _SHOWN} more tokens (--output shows them)")
    lines.append(
        f"  tightness of the {found['size']} nearest: {found['tightness']['mean']:.3f} ± {found['tightness']['sd']:.3f}"
    )
    for name, other in found["random"].items():
        z = "" if other["z"] is None else f", z {other['z']:+.1f}"
        lines.append(
            f"    around random vectors, {name}: {other['tightness']['mean']:.3f} ± {other['tightness']['sd']:.3f}"
            f"{z}, tighter than {share(other['percentile'])}"
        )
    if one["shared_neighbours"]:
        most = ", ".join(f"{of['token']} ({len(of['slots'])})" for of in one["shared_neighbours"][:_SHOWN])
        lines.append(f"  nearest to several tokens: {most}")
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, those of numbers to the right."""
    columns = []
    for head, *cells in zip(heads, *rows, strict=True):
        width = max(map(len, (head, *cells)))
        numeric = all(cell[:1] in "+-0123456789" for cell in cells)
        columns.append([cell.rjust(width) if numeric else cell.ljust(width) for cell in (head, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
