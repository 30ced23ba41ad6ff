"""Figure 4 and table 4 of Lester et al. (2021): what each method trains and keeps, counted from the methods themselves.

The numbers are those of this package's models and methods at the published sizes of T5 1.1, by their shapes alone: no
weights, no runs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import SingleDeviceSharding

from jaxprompt.experiment import Experiment, ModelConfig
from jaxprompt.figures import published
from jaxprompt.figures.drawing import Curve, Panel, draw
from jaxprompt.figures.rows import Row, to_markdown, write_csv
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.paths import write_whole
from jaxprompt.planning.step_program import abstract_model
from jaxprompt.prompts.method import PromptMethod
from jaxprompt.prompts.p_tuning import PTuning
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.prompts.prompt_tuning import PromptTuning

FIGURE_4_LENGTHS = tuple(length for length in published.LENGTHS if length <= 100)
"""The paper's figure has lengths from 1 to 100."""

PROMPT_DESIGN_TOKENS = (500, 2000)
"""Ids of a text prompt, each counted as a parameter (Lester et al. 2021, footnote 9)."""

WARP_CLASSES = 2
"""Rows of the output layer that WARP (Hambardzumyan et al. 2021) trains beside its prompt, one a class."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters of a method on a model.

    Attributes:
        frozen: of the model.
        trained: while it is trained.
        kept: for inference, once it is.
    """

    frozen: int
    trained: int
    kept: int


def method_counts(size: str, method: PromptMethod) -> Counts:
    """What a method has to train and to keep on T5 1.1.

    Args:
        size: `small`, `base`, `large`, `xl` or `xxl`.
        method: a method object; how it starts must not need a tokenizer.
    """
    lm = _model(size)

    def init(weights: Any) -> Any:
        return method.init_params(jax.random.key(0), dataclasses.replace(lm, params=weights))

    params = jax.eval_shape(init, lm.params)
    kept = jax.eval_shape(lambda params: method.export(params, lm), params)
    return Counts(lm.num_params, _numbers(params), _numbers({"tokens": kept.tokens, "kv": dict(kept.kv)}))


def table4_rows() -> list[Row]:
    """Table 4: trainable parameters by size and prompt length, ours beside the printed ones."""
    rows: list[Row] = []
    for (size, length), (trainable, total, percent) in published.TABLE_4.items():
        ours = method_counts(size, PromptTuning(length, "random"))
        together = ours.frozen + ours.trained
        rows.append(
            {
                "size": size,
                "length": length,
                "trainable": ours.trained,
                "total": together,
                "% trainable": f"{100 * ours.trained / together:.5f}",
                "trainable, published": trainable,
                "total, published": total,
                "% trainable, published": percent,
                "note": published.MISPRINTS.get((size, length), ""),
            }
        )
    return rows


def table4(output: epath.Path) -> list[epath.Path]:
    """Writes `table4.csv` and `table4.md`."""
    rows = table4_rows()
    write_csv(output / "table4.csv", rows)
    title = "# Trainable parameters of prompt tuning on T5 1.1 (Lester et al. 2021, table 4)\n\n"
    write_whole(output / "table4.md", title + to_markdown(rows))
    return [output / "table4.md", output / "table4.csv"]


def figure4_rows() -> list[Row]:
    """Figure 4: task parameters of each method, at each size and length."""
    rows = []
    for size in published.SIZES:
        frozen = _model(size).num_params
        width = _model(size).config.d_model
        for name, count in _METHODS.items():
            for length in FIGURE_4_LENGTHS:
                rows.append(_row(name, size, frozen, length, count(size, length)))
        for length in FIGURE_4_LENGTHS:
            rows.append(_row("WARP", size, frozen, length, (length + WARP_CLASSES) * width))
        rows.append(_row("model tuning", size, frozen, None, frozen))
        rows += [_row("prompt design", size, frozen, length, length) for length in PROMPT_DESIGN_TOKENS]
    return rows


def figure4(output: epath.Path) -> list[epath.Path]:
    """Draws `figure4.png`: task parameters and their share, by method and size; and writes `figure4.csv`.

    A line is the mean over `FIGURE_4_LENGTHS`, as the paper's, and a band goes from the least to the most.
    """
    rows = figure4_rows()
    write_csv(output / "figure4.csv", rows)
    sizes = [*published.SIZES.items()]
    panels = [
        Panel("Task parameters", "parameters", _curves(rows, "parameters"), sizes, log=True),
        Panel("Share of the model's", "% of the model's parameters", _curves(rows, "percent"), sizes, True, True),
    ]
    lengths = f"{', '.join(map(str, FIGURE_4_LENGTHS[:-1]))} and {FIGURE_4_LENGTHS[-1]}"
    note = f"T5 1.1. Lines: mean over lengths {lengths}; bands: least to most; prompt design: 500 to 2000 token ids"
    draw(panels, output / "figure4.png", note)
    return [output / "figure4.png", output / "figure4.csv"]


def _curves(rows: Sequence[Row], column: str) -> list[Curve]:
    curves = []
    for style, name in enumerate(_ORDER):
        values: dict[int, list[float]] = {}
        for row in rows:
            if row["method"] == name:
                values.setdefault(row["model parameters"], []).append(row[column])
        means = [statistics.fmean(of) for of in values.values()]
        # WARP is but a few rows above prompt tuning, and another's: a line is enough.
        band = [] if name == "WARP" else [(min(of), max(of)) for of in values.values()]
        curves.append(Curve(name, [*values], means, band=band, style=style, dashed=name == "WARP"))
    return curves


def _row(method: str, size: str, frozen: int, length: int | None, count: int) -> Row:
    percent = float(f"{100 * count / frozen:.6g}")
    return {
        "method": method,
        "size": size,
        "model parameters": frozen,
        "length": length,
        "parameters": count,
        "percent": percent,
    }


_METHODS: Mapping[str, Callable[[str, int], int]] = {
    "prompt tuning": lambda size, length: method_counts(size, PromptTuning(length, "random")).kept,
    "prefix-tuning, inference": lambda size, length: method_counts(size, PrefixTuning(length)).kept,
    "prefix-tuning, training": lambda size, length: method_counts(size, PrefixTuning(length)).trained,
    "P-tuning, training": lambda size, length: method_counts(size, PTuning(length)).trained,
}
_ORDER = (
    "prompt tuning",
    "model tuning",
    "prompt design",
    "prefix-tuning, training",
    "prefix-tuning, inference",
    "P-tuning, training",
    "WARP",
)


@functools.cache
def _model(size: str) -> LanguageModel:
    experiment = Experiment(model=ModelConfig(path=f"google/t5-{size}-lm-adapt"))
    return abstract_model(experiment, None, SingleDeviceSharding(jax.devices()[0]))


def _numbers(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
