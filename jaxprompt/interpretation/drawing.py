"""Figures as inline SVG: heat maps, bars and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxprompt.evaluation.curves import COLOURS, GRID, INK
from jaxprompt.interpretation.markup import Markup, element

Points = Sequence[tuple[float, float | None]]

_LEVELS = 24
_BAR = "#8db9cc"
_NEGATIVE, _MIDDLE, _POSITIVE = (0x0B, 0x6E, 0x99), (0xFF, 0xFF, 0xFF), (0xD9, 0x5B, 0x0D)
_MAP = 380  # units that a heat map is wide
_MARGIN = 34
_WIDTH, _HEIGHT = 560, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 32


def shade(value: float, limit: float) -> str:
    """The colour of a value in [-limit, limit]: blue, white, orange."""
    part = max(-1.0, min(1.0, value / limit)) if limit else 0.0
    end = _POSITIVE if part > 0 else _NEGATIVE
    mixed = (round(low + (high - low) * abs(part)) for low, high in zip(_MIDDLE, end, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def heat_map(values: Sequence[Sequence[float]], limit: float, axis: str) -> Markup:
    """A square matrix in colours, with its scale; small ones with their numbers.

    Args:
        values: the matrix.
        limit: value, and negative value, of the strongest colours.
        axis: what rows and columns are.
    """
    size = len(values)
    cell = _MAP / size
    runs: dict[int, list[str]] = {}
    for row, line in enumerate(values):
        levels = [round(_LEVELS * max(-1.0, min(1.0, value / limit))) if limit else 0 for value in line]
        start = 0
        for column in range(1, size + 1):
            if column == size or levels[column] != levels[start]:
                runs.setdefault(levels[start], []).append(f"M{start} {row}h{column - start}v1H{start}z")
                start = column
    paths = [
        element("path", d="".join(parts), fill=shade(level, _LEVELS)) for level, parts in sorted(runs.items()) if level
    ]
    numbers = [
        element("text", f"{value:.2f}", x=_MARGIN + (column + 0.5) * cell, y=12 + (row + 0.5) * cell + 4,
                text_anchor="middle", font_size=11)
        for row, line in enumerate(values) for column, value in enumerate(line) if size <= 10
    ]  # fmt: skip
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, size) if size / step <= 12)
    marks = [
        mark
        for slot in range(0, size, step)
        for mark in (
            _label(str(slot), _MARGIN - 5, 12 + (slot + 0.5) * cell + 4, "end"),
            _label(str(slot), _MARGIN + (slot + 0.5) * cell, 12 + _MAP + 14),
        )
    ]
    scale = [
        element("rect", x=_MARGIN + _MAP + 16, y=f"{12 + _MAP * (1 - (part + 1) / 49):.2f}", width=12,
                height=f"{_MAP / 49 + 0.3:.2f}", fill=shade(part - _LEVELS, _LEVELS))
        for part in range(49)
    ]  # fmt: skip
    ends = [
        _label(f"{value:+.2f}" if value else "0", _MARGIN + _MAP + 32, y, "start")
        for value, y in ((limit, 20), (0.0, 12 + _MAP / 2 + 4), (-limit, 12 + _MAP))
    ]
    return element(
        "svg",
        element("g", *paths, transform=f"translate({_MARGIN} 12) scale({cell:.5f})", shape_rendering="crispEdges"),
        element("rect", x=_MARGIN, y=12, width=_MAP, height=_MAP, fill="none", stroke=GRID),
        *numbers,
        *marks,
        *scale,
        *ends,
        _label(axis, _MARGIN + _MAP / 2, 12 + _MAP + 30),
        viewBox=f"0 0 {_MARGIN + _MAP + 80} {_MAP + 50}",
        width=_MARGIN + _MAP + 80,
        role="img",
        aria_label=f"heat map of {size} x {size} cosines, {axis}",
    )


def bars(values: Sequence[float], axis: str, reference: tuple[str, float] | None = None) -> Markup:
    """A bar for each value, from 0, and a named level across them.

    Args:
        values: not negative.
        axis: what they are of.
        reference: name and value of the level.
    """
    top = max(*values, reference[1] if reference else 0, 1e-12)
    highs = ticks(0, top)
    scale = _Scale((0, len(values)), (0, max(highs[-1], top)))
    width = (scale.x(1) - scale.x(0)) * 0.8
    drawn = [
        element("rect", element("title", f"{slot}: {value:.4g}"), x=f"{scale.x(slot + 0.1):.2f}", width=f"{width:.2f}",
                y=f"{scale.y(value):.2f}", height=f"{scale.y(0) - scale.y(value):.2f}", fill=_BAR)
        for slot, value in enumerate(values)
    ]  # fmt: skip
    legend = Markup("")
    if reference:
        y = f"{scale.y(reference[1]):.2f}"
        drawn.append(
            element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, stroke=COLOURS[1], stroke_width=2)
        )  # fmt: skip
        legend = _legend({f"{reference[0]}, {reference[1]:.4g}": COLOURS[1]})
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, len(values)) if len(values) / step <= 12)
    below = [(slot + 0.5, str(slot)) for slot in range(0, len(values), step)]
    return Markup(legend + _panel(scale, drawn, highs, below, axis))


def lines(series: Mapping[str, Points], axis: str, *, marked: bool = False, log: bool = False) -> Markup:
    """Lines over a common axis, with a legend.

    Args:
        series: by name, points in order; those without a value are left out.
        axis: what they are over.
        marked: mark every point, for few of them.
        log: take a logarithmic scale where the values are positive and differ twentyfold.
    """
    kept = {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    heights = [y for points in kept.values() for _, y in points]
    across = [x for points in kept.values() for x, _ in points]
    if not heights:
        return Markup("")
    log = log and min(heights) > 0 and max(heights) > 20 * min(heights)
    highs = _decades(min(heights), max(heights)) if log else ticks(min(heights), max(heights))
    scale = _Scale(
        (min(across), max(across) if max(across) > min(across) else min(across) + 1),
        (min(highs[0], *heights), max(highs[-1], *heights)),
        log=log,
    )
    drawn, colours = [], {}
    for number, (name, points) in enumerate(kept.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = [(f"{scale.x(x):.1f}", f"{scale.y(y):.1f}") for x, y in points]
        drawn.append(
            element("polyline", points=" ".join(map(",".join, at)), fill="none", stroke=colour, stroke_width=1.8,
                    stroke_dasharray="6 3" if number >= len(COLOURS) else None)
        )  # fmt: skip
        if marked or len(at) == 1:
            drawn += [element("circle", cx=x, cy=y, r=3, fill=colour) for x, y in at]
        colours[name] = colour
    places = ticks(min(across), max(across)) if max(across) > min(across) else across[:1]
    below = [(x, f"{x:,g}") for x in places if min(across) <= x <= max(across)]
    return Markup(_legend(colours) + _panel(scale, drawn, highs, below, axis))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span an interval."""
    if high <= low:
        high, low = (1.0, 0.0) if low == 0 else (low + abs(low), min(low, 0.0))
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _legend(colours: Mapping[str, str]) -> Markup:
    marks = (element("span", element("i", style=f"background:{colour}"), name) for name, colour in colours.items())
    return element("div", *marks, class_="legend")


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


class _Scale:
    """From values to places in a panel."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float], *, log: bool = False):
        self._across, self._log = across, log
        self._up = tuple(map(math.log10, up)) if log else up

    def x(self, value: float) -> float:
        low, high = self._across
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._up
        value = math.log10(value) if self._log else value
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / ((high - low) or 1)


def _panel(
    scale: _Scale,
    drawn: Sequence[Markup],
    highs: Sequence[float],
    below: Sequence[tuple[float, str]],
    axis: str,
) -> Markup:
    grid = [
        part
        for value in highs
        for part in (
            element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{scale.y(value):.2f}", y2=f"{scale.y(value):.2f}",
                    stroke=GRID),
            _label(f"{value:,.6g}", _LEFT - 6, scale.y(value) + 4, "end"),
        )
    ]  # fmt: skip
    marks = [_label(text, scale.x(x), _HEIGHT - _BOTTOM + 14) for x, text in below]
    name = _label(axis, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3)
    return element("svg", *grid, *drawn, *marks, name, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", width=_WIDTH, role="img",
                   aria_label=f"figure over {axis}")  # fmt: skip


def _label(text: str, x: float, y: float, anchor: str = "middle", colour: str = INK) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size=11, fill=colour)
