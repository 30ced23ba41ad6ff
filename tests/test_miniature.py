"""The miniature of Lester et al. (2021): its family of models, its grid, and the numbers that the repository shows."""

import csv
import math

import jax
import pytest
from nano import ROOT

import jaxprompt as jp
from jaxprompt.data import mini
from jaxprompt.data.tasks import load_task
from jaxprompt.models.initialize import new_model
from jaxprompt.sweeps.sweep import open_sweep
from jaxprompt.trees import flatten

SIZES = {"70k": 69_952, "300k": 301_824, "800k": 841_360, "2m": 2_427_904}


@pytest.fixture(scope="module")
def runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return open_sweep("runs/miniature", sweep="configs/sweeps/miniature.py")[0]


@pytest.mark.parametrize("size", SIZES)
def test_the_family_has_the_sizes_that_it_is_named_by(size):
    def weights():
        return new_model(ROOT / "configs/miniature" / size, jax.random.key(0), tokenizer=False).params

    shapes = flatten(jax.eval_shape(weights))
    assert sum(math.prod(leaf.shape) for leaf in shapes.values()) == SIZES[size]


def test_every_run_of_the_grid_has_a_method_for_its_task(runs):
    assert len(runs) == 200
    assert len({run.name for run in runs}) == 200
    lm = jp.load_model("nano-t5")
    seen = set()
    for run in runs:
        experiment = run.experiment
        if experiment.corpus.objective:
            assert experiment.model.path.startswith(("configs/miniature/", "runs/miniature/span-"))
            continue
        task = load_task(None, experiment.task.source)
        method = experiment.prompt.build(task.format.init_words)
        if (
            experiment.prompt,
            experiment.task,
        ) not in seen:  # raises where template, method and task do not go together
            jp.patch(lm, method, experiment.task.template(experiment.prompt.template or task.format.input))
        seen.add((experiment.prompt, experiment.task))
        assert run.needs, f"{run.name} starts from a model that the sweep makes"


def test_the_figures_that_are_shown_are_of_this_grid(runs):
    with open(ROOT / "docs/miniature/results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tuned = {run.name for run in runs if not run.experiment.corpus.objective}
    assert {row["run"].removeprefix("runs/miniature/") for row in rows} == tuned
    with open(ROOT / "docs/miniature/figure1.csv", encoding="utf-8") as file:
        ours = [row for row in csv.DictReader(file) if row["source"] == "this project"]
    assert {row["size"]: int(row["parameters"]) for row in ours} == SIZES
    readme = (ROOT / "README.md").read_text()
    for row in ours:
        if row["method"] == "prompt_tuning":
            assert f"| {float(row['mean']):.1f} ± {float(row['sd']):.1f} |" in readme


def test_the_topic_of_a_review_is_what_it_is_of():
    rows = mini.records("topic", "test")
    assert {row["label"] for row in rows} == {"film", "book", "inn", "show"}
    assert all(sum(row["label"] == label for row in rows) == 125 for label in ("film", "book", "inn", "show"))
    films = mini.records("sentiment/film", "test")
    assert {row["label"] for row in films} == {"negative", "positive"}
    assert not any("breakfast" in row["review"] for row in films)
    assert any("breakfast" in row["review"] for row in mini.records("sentiment/inn", "test"))
