"""From runs' directories to figures and tables: what is gathered, averaged, chosen, drawn, and said to be missing."""

import csv
import json
import re
import statistics

import pytest
from etils import epath

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures import drawing, published, score_figures
from jaxprompt.figures.aggregate import score_points, summary_rows
from jaxprompt.figures.axes import task_name
from jaxprompt.figures.gather import gather
from jaxprompt.figures.produce import NAMES, produce
from jaxprompt.figures.rows import difference, to_markdown
from jaxprompt.figures.selection import Undecided, at_defaults
from jaxprompt.sweeps.config_files import read_config

NANO, T5_SMALL = 300_000, 76_961_152


@pytest.fixture
def runs(tmp_path):
    """Makes run directories; `.gathered()` is what is found in them."""

    class Runs:
        root = epath.Path(tmp_path / "runs")

        def add(self, name, axes=None, config=None, *, frozen=NANO, trainable=640, seconds=1.5, **summary):
            directory = self.root / name
            directory.mkdir(parents=True)
            for file, values in (("axes.json", axes), ("config.json", config)):
                if values is not None:
                    (directory / file).write_text(json.dumps(values))
            counts = {"num_trainable": trainable, "num_frozen": frozen, "seconds": seconds, "device": "1 x cpu"}
            shared = {"step": 9, "best": {"step": 8, "selection": 0.5, "values": {}}, "split": "test"}
            (directory / "summary.json").write_text(json.dumps(counts | shared | summary))

        def tuned(self, name, scores, *, size="300k", task="mini:topic", method="prompt_tuning", rates=None, **axes):
            """Prompts with seeds 0, 1, … and these accuracies."""
            members = [
                {"seed": seed, "learning_rate": (rates or [0.3] * len(scores))[seed],
                 "best": {"step": seed, "selection": score, "values": {}}, "scores": {"accuracy": score}}
                for seed, score in enumerate(scores)
            ]  # fmt: skip
            mean = {"accuracy": statistics.fmean(scores)}
            best = {"accuracy": max(scores)}
            rows = {"trained prompt": best, "best": best, "average": mean, "ensemble": {"accuracy": 0.875}}
            axes = {"size": size, "task": task, "method": method, "seeds": [0], "stage": name} | axes
            self.add(name, axes, scores=rows, members=members)

        def gathered(self):
            return gather([self.root])

    return Runs()


def one(accuracy):
    return {"trained prompt": {"accuracy": accuracy}}


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_prompt_of_a_run_is_a_result(runs):
    runs.tuned("a", [0.5, 0.75], length=20)
    results = runs.gathered().results
    assert [(result.axes["seed"], result.score, result.best_step) for result in results if result.main] == [
        (0, 0.5, 0),
        (1, 0.75, 1),
    ]
    assert {result.row: result.score for result in results if not result.main} == {
        "best": 0.75,
        "average": 0.625,
        "ensemble": 0.875,
    }
    assert {result.num_prompts for result in results} == {2}


def test_axes_come_from_the_config_where_a_sweep_left_none(runs):
    _, experiment = read_config("configs/lester.py", {"size": "base", "task": "boolq"})
    runs.add("single", config=experiment.to_dict(), scores=one(0.5), frozen=247_577_856)
    (result,) = runs.gathered().results
    wanted = {"method": "prompt_tuning", "size": "base", "length": 100, "init": "class_labels", "seed": 0}
    assert result.axes.items() >= (wanted | {"objective": "lm_adaptation", "lm_steps": 100_000}).items()
    assert (result.task, result.trained_on, result.transfer, result.split) == ("boolq", "boolq", False, "test")


def test_models_are_named_by_the_run_that_made_them(runs):
    for name, path in (("a", "runs/lm/2m/model"), ("b", "runs/adapt-2m/model-300"), ("c", "google/t5-v1_1-xl")):
        config = {"model": {"path": path}, "prompt": {"method": "model_tuning"}, "task": {"source": "mini:topic"}}
        runs.add(name, config=config, scores=one(0.5))
    found = [
        tuple(result.axes[axis] for axis in ("size", "objective", "lm_steps")) for result in runs.gathered().results
    ]
    assert found == [("2m", None, None), ("adapt-2m", None, 300), ("xl", "span_corruption", 0)]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("topic", "mini:topic"),
        ("mini:sentiment/film", "mini:sentiment/film"),
        ("tfds:super_glue/boolq", "boolq"),
        ("mrqa_textbookqa", "textbookqa"),
        ("mrqa_relation_extraction", "re"),
        ("mrpc_from_qqp", "mrpc"),
        ("superglue", "superglue"),
    ],
)
def test_tasks_have_one_name(given, named):
    assert task_name(given) == named


def test_a_model_tuned_on_many_tasks_has_a_score_for_each(runs):
    axes = {"size": "300k", "task": "mini", "method": "model_tuning", "seed": 1}
    tasks = {"topic": {"accuracy": 0.5}, "entailment": {"accuracy": 0.75}}
    runs.add("multi", axes, frozen=0, trainable=NANO, tasks=tasks)
    results = runs.gathered().results
    assert {result.task: result.score for result in results} == {"mini:topic": 0.5, "mini:entailment": 0.75}
    assert {result.axes["method"] for result in results} == {"multitask_model_tuning"}
    (point,) = score_points(results, "method")["mini"]["multitask_model_tuning"]
    assert (point.score.mean, point.parameters, point.complete) == (62.5, NANO, True)


def test_prompt_design_is_scored_by_its_examples(runs):
    scores = {"no prompt": {"accuracy": 0.1}, "hard prompt": {"accuracy": 0.2}, "few-shot": {"accuracy": 0.25}}
    axes = {"size": "300k", "task": "mini:topic", "method": "prompt_design"}
    runs.add("design", axes, trainable=0, scores=scores)
    assert [(result.row, result.score) for result in runs.gathered().results if result.main] == [("few-shot", 0.25)]


def test_what_cannot_be_read_is_said_and_hides_nothing(runs):
    runs.tuned("good", [0.5])
    runs.tuned("again", [0.5])
    runs.add("nameless", {"size": "300k"}, scores=one(0.5))
    runs.add("pretraining", {"size": "300k"})
    runs.add("broken", {"size": "300k", "method": "model_tuning", "task": "rte"}, scores=one(0.5))
    (runs.root / "broken" / "summary.json").write_text("{")
    runs.add("under_way", config={}, scores=one(0.5))
    (runs.root / "under_way" / "summary.json").rename(runs.root / "under_way" / "metrics.jsonl")
    members = [{"seed": 0, "diverged": "step 3 gave nan"}, {"seed": 1, "scores": {"accuracy": 0.5}}]
    axes = {"size": "300k", "method": "prompt_tuning", "task": "rte"}
    runs.add("diverged", axes, scores={"average": {"accuracy": 0.5}}, members=members)
    gathered = runs.gathered()
    notices = "\n".join(gathered.notices)
    for said in (
        "broken is left out: its summary.json",
        "nameless is left out: .*names a method and a task",
        "not finished, and left out: 1 runs, such as .*under_way",
        "4 results have the setting, seed and task of an earlier one.*mini:topic in .*good",
        "diverged: the prompt with seed 0 has no scores .step 3 gave nan",
    ):
        assert re.search(said, notices), (said, notices)
    assert "pretraining" not in notices
    assert {result.run.rpartition("/")[2] for result in gathered.results} == {"again", "good", "diverged"}
    assert [(row["task"], row["n"]) for row in summary_rows(gathered.results)] == [("mini:topic", 1), ("rte", 1)]
    with pytest.raises(FileNotFoundError, match="no directory"):
        gather([runs.root / "nowhere"])


def test_scores_are_averaged_inside_tasks_then_over_them_then_over_seeds(runs):
    for task in SUPERGLUE_TASKS:
        for seed, score in enumerate((0.5, 0.6, 0.85)):
            metrics = {"mean_f1": score - 0.1, "accuracy": score + 0.1} if task == "cb" else {"accuracy": score}
            axes = {"size": "small", "method": "prompt_tuning", "task": task, "seed": seed}
            runs.add(f"{task}-{seed}", axes, frozen=T5_SMALL, scores={"trained prompt": metrics})
    results = runs.gathered().results
    (point,) = score_points(results, "method")["superglue"]["prompt_tuning"]
    assert point.complete
    assert point.score.mean == pytest.approx(65.0)
    assert point.score.deviation == pytest.approx(statistics.stdev([50, 60, 85]))
    assert point.score.count == 3
    fewer = [result for result in results if (result.task, result.axes["seed"]) != ("rte", 2)]
    (point,) = score_points(fewer, "method")["superglue"]["prompt_tuning"]
    assert (point.score.mean, point.score.count, point.complete) == (pytest.approx(55.0), 2, True)
    (point,) = score_points([result for result in results if result.task != "rte"], "method")["superglue"][
        "prompt_tuning"
    ]
    assert (len(point.tasks), point.complete) == (7, False)
    summary = {row["task"]: row for row in summary_rows(results)}
    assert summary["cb"]["mean"] == pytest.approx(0.65)
    assert (summary["cb"]["n"], summary["cb"]["sd"]) == (3, pytest.approx(statistics.stdev([0.5, 0.6, 0.85])))


def test_a_figure_holds_what_it_does_not_vary_at_the_default(runs):
    default = {"length": 20, "init": "class_labels", "objective": "lm_adaptation", "lm_steps": 1000}
    runs.tuned("default", [0.9], **default)
    runs.tuned("short", [0.1], **default | {"length": 1})
    runs.tuned("random", [0.2], **default | {"init": "random"})
    runs.tuned("span", [0.3], **default | {"objective": "span_corruption", "lm_steps": 0})
    runs.tuned("early", [0.4], **default | {"lm_steps": 100})
    runs.tuned("prefix", [0.5], method="prefix_tuning", length=5, init="random")
    results = runs.gathered().results

    def scores(*free, **chosen):
        kept = at_defaults(results, free, chosen)
        return {result.score for result in kept if result.main and result.axes["method"] == "prompt_tuning"}

    assert scores() == {0.9}
    assert scores("length") == {0.9, 0.1}
    assert scores("init") == {0.9, 0.2}
    assert scores("objective") == {0.9, 0.3}
    assert scores("lm_steps") == {0.9, 0.4, 0.3}  # which no adaptation leaves at span corruption
    assert scores(length="1") == {0.1}
    runs.tuned("large", [0.7], size="small", task="rte", length=100)
    results = runs.gathered().results
    assert scores() == {0.9, 0.7}  # published tasks have another default length than the miniature
    assert [result.score for result in at_defaults(results, (), {}) if result.axes["method"] == "prefix_tuning"][
        -1
    ] == 0.5


def test_a_default_that_does_not_show_is_asked_for(runs):
    runs.tuned("short", [0.1], length=1)
    runs.tuned("long", [0.2], length=20)
    results = runs.gathered().results
    with pytest.raises(Undecided, match="--defaults=length=20"):
        at_defaults(results, (), {})
    assert {result.score for result in at_defaults(results, (), {"length": "20"}) if result.main} == {0.2}
    with pytest.raises(ValueError, match="no run has length=21"):
        produce(results, runs.root / "figures", chosen={"length": "21"})
    with pytest.raises(ValueError, match=r"no axis 'lenght' .*did you mean 'length'"):
        produce(results, runs.root / "figures", chosen={"lenght": "20"})


def test_of_several_learning_rates_the_best_by_validation_counts(runs):
    runs.tuned("rates", [0.5, 0.7, 0.6], rates=[0.1, 0.3, 0.3])
    kept = at_defaults(runs.gathered().results, (), {})
    assert {result.score for result in kept if result.main} == {0.7, 0.6}
    assert "ensemble" in {result.row for result in kept}


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
