"""How the figures look: curves over the size of the model, in colours that colour-blind people tell apart."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color Universal Design", without their yellow, which white paper swallows.
GREEN, VERMILION, BLUE, ORANGE, PURPLE, SKY, BLACK = (
    "#009E73",
    "#D55E00",
    "#0072B2",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
COLOURS = (GREEN, VERMILION, BLUE, ORANGE, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_GRID, _INK, _SOFT = "#e5e5e5", "#37352f", "#787774"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values over the size of models.

    Attributes:
        label: for the legend; curves of the same label share an entry.
        parameters: of each model.
        values: at each model.
        deviations: around the values; None for none.
        band: (lowest, highest) at each model, drawn as a band; empty for none.
        hollow: which values are drawn hollow.
        style: index of colour and marker.
        dashed: whether it is drawn as another's result: dashed and with crosses.
    """

    label: str
    parameters: Sequence[int]
    values: Sequence[float]
    deviations: Sequence[float | None] = ()
    band: Sequence[tuple[float, float]] = ()
    hollow: Sequence[bool] = ()
    style: int = 0
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves on axes of their own.

    Attributes:
        title: above them.
        ylabel: beside them.
        curves: in the order of the legend.
        sizes: (name, parameters) of the models, for the axis below; they need not have a value.
        log: whether values are on a logarithmic axis.
        percent: whether that axis is labelled in percent.
    """

    title: str
    ylabel: str
    curves: Sequence[Curve]
    sizes: Sequence[tuple[str, int]]
    log: bool = False
    percent: bool = False


def draw(panels: Sequence[Panel], place: epath.Path, note: str = "") -> Figure:
    """Draws panels side by side over one legend, and saves them as PNG.

    Args:
        panels: one or more.
        place: of the file; its directory is there.
        note: a line below, for what the picture does not show by itself.

    Returns:
        matplotlib's figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    size = (7.2 if len(panels) == 1 else 5.6 * len(panels), 5.2)
    # A Figure of its own, without pyplot, leaves the caller's backend and open figures alone.
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    entries: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, curve in enumerate(panel.curves):  # the first one lies on top
            entries.setdefault(curve.label, _draw_curve(axes, curve, 3 + len(panel.curves) - number))
        _dress(axes, panel)
    legend = figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=3 if len(panels) > 1 else 2,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    if note:  # in the legend, which makes room for it
        legend.set_title(note, prop=FontProperties(size=8))
        legend.get_title().set_color(_SOFT)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})  # the same numbers, the same file
    place.write_bytes(image.getvalue())
    return figure


def counted(parameters: float) -> str:
    """A count for people: `77M`, `2.8B`, `512`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= 0.9995 * limit:
            scaled = parameters / limit
            return (f"{scaled:.1f}".removesuffix(".0") if scaled < 9.95 else f"{scaled:.0f}") + unit
    return f"{parameters:.0f}"


def _draw_curve(axes: Axes, curve: Curve, order: int) -> Any:
    colour = COLOURS[curve.style % len(COLOURS)]
    marker = "x" if curve.dashed else MARKERS[curve.style % len(MARKERS)]
    style = {"linestyle": (0, (4, 2)), "linewidth": 1.2, "alpha": 0.85} if curve.dashed else {"linewidth": 1.8}
    spreads = [
        point
        for point in zip(curve.parameters, curve.values, curve.deviations or (), strict=False)
        if point[2] is not None
    ]
    if curve.band:
        low, high = zip(*curve.band, strict=True)
        axes.fill_between(curve.parameters, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    if spreads:
        at, values, deviations = zip(*spreads, strict=True)
        axes.errorbar(
            at,
            values,
            deviations,
            fmt="none",
            ecolor=colour,
            elinewidth=1.2,
            capsize=3.5,
            zorder=order,
        )
    (line,) = axes.plot(
        curve.parameters, curve.values, color=colour, marker=marker, markersize=6, zorder=order, **style
    )
    if any(curve.hollow):
        holes = [number for number, hollow in enumerate(curve.hollow) if hollow]
        axes.plot(
            [curve.parameters[number] for number in holes],
            [curve.values[number] for number in holes],
            linestyle="none",
            color=colour,
            marker=marker,
            markersize=6,
            markerfacecolor="white",
            zorder=order,
        )
    return line


def _dress(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: _percent(value) if panel.percent else counted(value))
        )
    else:
        axes.margins(y=0.08)
    sizes = sorted(panel.sizes, key=lambda size: size[1])
    axes.set_xticks([parameters for _, parameters in sizes])
    counts = [counted(parameters) for _, parameters in sizes]
    axes.set_xticklabels(
        [
            name if name.lower() == count.lower() else f"{name}\n{count}"
            for (name, _), count in zip(sizes, counts, strict=True)
        ]
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)
    axes.set_xlabel("model and its parameters", color=_INK)
    axes.set_ylabel(panel.ylabel, color=_INK)
    axes.set_title(panel.title, color=_INK, fontsize=11, fontweight="bold", loc="left")
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)


def _percent(value: float) -> str:
    return f"{value:.8f}".rstrip("0").rstrip(".") + " %"
