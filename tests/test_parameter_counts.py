"""What methods train and keep on the published models, against Lester et al. (2021), table 4 and figure 4."""

import statistics

import pytest

from jaxprompt.figures import parameter_counts, published
from jaxprompt.figures.parameter_counts import method_counts
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.prompts.prompt_tuning import PromptTuning


@pytest.fixture(scope="module")
def figure4():
    """{(method, size): shares in percent, from the shortest length on}."""
    shares = {}
    for row in parameter_counts.figure4_rows():
        shares.setdefault((row["method"], row["size"]), []).append(row["percent"])
    return shares


def test_table_4_equals_the_printed_one():
    rows = parameter_counts.table4_rows()
    assert len(rows) == 30
    for row in rows:
        ours = row["trainable"], row["total"], row["% trainable"]
        theirs = tuple(row[f"{name}, published"] for name in ("trainable", "total", "% trainable"))
        assert (ours == theirs) == (row["note"] == ""), row
    found = {(row["size"], row["length"]): row for row in rows}
    assert found["small", 20]["trainable"] == 10_240
    assert found["large", 100]["% trainable"] == "0.01307"
    assert found["xxl", 50]["total"] == 11_135_332_352 + 204_800
    assert {(row["size"], row["length"]) for row in rows if row["note"]} == set(published.MISPRINTS)


@pytest.mark.parametrize("size", published.SIZES)
def test_models_have_the_printed_size(size):
    assert method_counts(size, PromptTuning(1, "random")).frozen == published.SIZES[size]


def test_prefixes_are_keys_and_values_of_every_layer():
    counts = method_counts("small", PrefixTuning(10))
    stacks, layers, inner = 3, 8, 6 * 64
    row = layers * 2 * inner
    mlp = 10 * 512 + 512 * 512 + 512 + 512 * row + row
    assert counts.kept == stacks * 10 * row
    assert counts.trained == stacks * mlp


def test_figure_4_is_what_its_caption_says(figure4):
    means = {key: statistics.fmean(shares) for key, shares in figure4.items()}
    for size in published.SIZES:
        assert means["model tuning", size] == 100
        assert 0.1 < means["prefix-tuning, inference", size] < 1
        assert means["prefix-tuning, training", size] > means["prefix-tuning, inference", size]
        assert means["WARP", size] < 0.1
    assert sum(means["prompt tuning", size] < 0.01 for size in published.SIZES) == 3  # "most model sizes"
    assert max(figure4["prompt tuning", "xl"]) < 0.01  # section 4: "for models over a billion parameters"
    assert max(figure4["prompt tuning", "xxl"]) == pytest.approx(100 * 409_600 / 11_135_332_352, rel=1e-5)


def test_printed_figures_agree_with_each_other():
    for (size, _), (trainable, total, _) in published.TABLE_4.items():
        if (size, trainable) not in (("xxl", 204_800),):
            assert total - trainable == published.SIZES[size]
    tasks = {task: [] for task, _ in published.ENSEMBLE}
    for (task, _), values in published.ENSEMBLE.items():
        tasks[task].append(values)
    for number, printed in enumerate(published.ENSEMBLE_SCORE):
        mean = statistics.fmean(statistics.fmean(value[number] for value in values) for values in tasks.values())
        assert mean == pytest.approx(printed, abs=0.06)  # of numbers that are rounded to 0.1
    deltas = {
        other: prompt[0] - model[0]
        for (train, other, _), (model, prompt) in published.SHIFT.items()
        if train == "squad"
    }
    printed = {"squad": -0.1, "textbookqa": 12.5, "bioasq": 1.2, "race": 0.9, "re": 0.4, "duorc": -1.2, "drop": -1.8}
    assert deltas == pytest.approx(printed, abs=1e-9)
