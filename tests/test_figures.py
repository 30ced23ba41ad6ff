"""From runs' directories to figures and tables: what is gathered, averaged, chosen, drawn, and said to be missing."""

import re
import statistics

import pytest
from figure_runs import NANO, T5_SMALL, Runs, one

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures.aggregate import score_points, summary_rows
from jaxprompt.figures.axes import task_name
from jaxprompt.figures.gather import gather
from jaxprompt.figures.produce import produce
from jaxprompt.figures.selection import Undecided, at_defaults
from jaxprompt.sweeps.config_files import read_config


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


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
