"""Figures and tables as they are drawn and written: curves, panels, numbers beside the published ones."""

import statistics

import pytest
from figure_runs import T5_SMALL, Runs, one, table

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures import drawing, published, score_figures
from jaxprompt.figures.produce import NAMES, produce
from jaxprompt.figures.rows import difference, to_markdown


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def test_figure_1_of_nano_models_leaves_the_published_ones_to_a_panel_of_their_own(runs, monkeypatch):
    drawn = []
    monkeypatch.setattr(score_figures, "draw", lambda *given: drawn.append(drawing.draw(*given)))
    for size, frozen, score in (("70k", 70_000, 0.5), ("small", 300_000, 0.75)):  # a name alone makes no T5 1.1
        for seed in (0, 1):
            axes = {"size": size, "task": "mini:topic", "method": "prompt_tuning", "seed": seed}
            runs.add(f"{size}-{seed}", axes, frozen=frozen, scores=one(score + 0.02 * seed))
    output = runs.root / "figures"
    produced = produce(runs.gathered().results, output, ["figure1"])
    assert not produced.missing
    assert [file.name for file in produced.files] == ["results.csv", "summary.csv", "figure1.png", "figure1.csv"]
    ours, theirs = drawn[0].axes
    (line,) = ours.lines[-1:]
    assert line.get_xdata().tolist() == [70_000, 300_000]
    assert line.get_ydata() == pytest.approx([51.0, 76.0])
    assert ours.get_ylabel() == "mini:topic, %"
    at_xxl = {line.get_ydata()[-1] for line in theirs.lines if list(line.get_xdata()) == [*published.SIZES.values()]}
    assert at_xxl >= {52.8, 88.8, 89.9}
    rows = table(output / "figure1.csv")
    assert [(row["size"], row["mean"], row["n"]) for row in rows[:2]] == [("70k", "51.0", "2"), ("small", "76.0", "2")]
    assert {row["source"] for row in rows[2:]} == {"Vu et al. 2022, table 4"}
    assert (output / "figure1.png").stat().length > 10_000


def test_the_published_sizes_share_axes_with_the_published_curves_once_all_tasks_are_there(runs, monkeypatch):
    panels = []
    monkeypatch.setattr(score_figures, "draw", lambda given, *_: panels.append(given))
    for task in SUPERGLUE_TASKS:
        axes = {"size": "small", "task": task, "method": "prompt_tuning"}
        runs.add(task, axes, frozen=T5_SMALL, scores=one(0.5))
        if task in (SUPERGLUE_TASKS[1], SUPERGLUE_TASKS[-1]):
            produce(runs.gathered().results, runs.root / "figures", ["figure1"])
    (ours, theirs), (both,) = panels
    assert [(curve.label, curve.dashed) for curve in both.curves] == [
        ("prompt tuning", False),
        ("prompt tuning, published", True),
        ("model tuning, published", True),
        ("prompt design (GPT-3), published", True),
    ]
    assert both.ylabel == theirs.ylabel == "SuperGLUE score"
    assert ours.ylabel == "mean over 2 tasks, %"
    assert [list(panel.curves[0].hollow) for panel in (ours, both)] == [[True], [False]]


def test_figure_3_has_a_curve_for_every_value(runs, monkeypatch):
    panels = []
    monkeypatch.setattr(score_figures, "draw", lambda given, *_: panels.extend(given))
    for length, score in ((20, 0.75), (1, 0.5), (5, 0.6)):
        runs.tuned(f"length-{length}", [score], length=length)
    produced = produce(runs.gathered().results, runs.root / "figures", ["figure3a", "figure3b"])
    (panel,) = panels
    assert [(curve.label, *curve.values) for curve in panel.curves] == [("1", 50.0), ("5", 60.0), ("20", 75.0)]
    assert "configs/sweeps/lester.py:figure3b" in produced.missing["figure3b"]


def test_tables_have_our_numbers_beside_the_published_ones(runs):
    for seed, method in ((0, "prompt_tuning"), (1, "prompt_tuning"), (0, "model_tuning")):
        frozen = 11_135_332_352 if method == "prompt_tuning" else 0
        axes = {"size": "xxl", "task": "qqp", "method": method, "seed": seed}
        other = {"f1": 0.8 + 0.02 * seed, "accuracy": 0.7}
        other = other if seed else {"split": "validation", "rows": {"trained prompt": other}}  # it comes either way
        trainable = 409_600 if frozen else 11_135_332_352
        runs.add(
            f"{method}-{seed}", axes, frozen=frozen, trainable=trainable, scores=one(0.9), transfer={"mrpc": other}
        )
    runs.tuned("film", [0.5, 0.7], task="mini:sentiment/film")
    output = runs.root / "figures"
    produced = produce(runs.gathered().results, output, ["table1", "table2", "table3"])
    assert list(produced.missing) == ["table1"]
    (row,) = (row for row in table(output / "table2.csv") if (row["eval"], row["metric"]) == ("mrpc", "f1"))
    assert (row["prompt"], row["prompt n"], row["model"], row["model sd"]) == ("81.0", "2", "80.0", "")
    assert float(row["prompt sd"]) == pytest.approx(statistics.stdev([80, 82]), abs=1e-3)
    assert (row["prompt, published"], row["model sd, published"]) == ("84.3", "2.1")
    assert "| xxl  | QQP   | MRPC | f1       | 80.0" in (output / "table2.md").read_text()
    rows = {(row["size"], row["task"], row["metric"]): row for row in table(output / "table3.csv")}
    film = rows["300k", "mini:sentiment/film", "accuracy"]
    assert [film[name] for name in ("prompts", "average", "best", "ensemble")] == ["2", "60.0", "70.0", "87.5"]
    assert rows["xxl", "SuperGLUE", "mean"]["ensemble, published"] == "91.3"
    assert rows["xxl", "boolq", "accuracy"]["ensemble"] == ""


def test_one_figure_that_cannot_be_made_does_not_stop_others(runs):
    runs.tuned("short", [0.1], length=1)
    runs.tuned("long", [0.2], length=20)
    produced = produce(runs.gathered().results, runs.root / "figures", ["figure1", "figure3b", "table3", "figure3a"])
    assert set(produced.missing) == {"figure1", "figure3b", "table3"}
    assert produced.files[-1].name == "figure3a.csv"
    with pytest.raises(ValueError, match=r"no figure or table 'figure5' .* did you mean"):
        produce((), runs.root / "figures", ["figure5"])
    assert len(NAMES) == 10


def test_markdown_is_aligned_and_dashes_stand_for_nothing():
    rows = [{"task": "a", "score": 91.06, "n": 3}, {"task": "bcde", "score": None, "n": 12_000}]
    assert to_markdown(rows).splitlines() == [
        "| task | score |      n |",
        "| ---- | ----: | -----: |",
        "| a    |  91.1 |      3 |",
        "| bcde |     \u2013 | 12,000 |",
    ]
    assert [difference(1.0, 2.5), difference(2.0, 2.04), difference(None, 1.0)] == ["\u22121.5", "+0.0", None]


def test_settings_are_compared_on_the_tasks_that_all_were_tried_on(runs, monkeypatch):
    runs.tuned("default", [0.5, 0.7], task="mini:topic", length=20)
    runs.tuned("elsewhere", [0.1, 0.1], task="mini:sentiment", length=20)
    runs.tuned("longer", [0.9, 0.9], task="mini:topic", length=50)
    drawn = []
    monkeypatch.setattr(score_figures, "draw", lambda panels, *_: drawn.extend(panels))
    score_figures.figure3("figure3a", runs.gathered().results, {}, runs.root)
    (panel,) = drawn
    assert {curve.label: list(curve.values) for curve in panel.curves} == {"20": [60.0], "50": [90.0]}


def test_a_method_that_was_tried_on_some_tasks_only_has_no_place_in_figure_1(runs, monkeypatch):
    for task, score in (("mini:topic", 0.5), ("mini:sentiment", 0.7)):
        runs.tuned(f"prompt-{task[5:]}", [score, score], task=task)
    runs.tuned("prefix", [0.9, 0.9], task="mini:topic", method="prefix_tuning")
    drawn = []
    monkeypatch.setattr(score_figures, "draw", lambda panels, *_: drawn.extend(panels))
    score_figures.figure1(runs.gathered().results, {}, runs.root)
    ours = drawn[0]
    assert {curve.label: list(curve.values) for curve in ours.curves} == {"prompt tuning": [60.0]}
