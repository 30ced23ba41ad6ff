"""Sweeps as data: runs of a grid, their names, what is read from files and flags, and the sweeps of the repository."""

import math

import nano
import pytest
from grid_config import ALONE, names, write_config

from jaxprompt.experiment import ConfigError
from jaxprompt.sweeps.config_files import read_config, read_sweep
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import expand, link
from jaxprompt.sweeps.settings import read_axis, read_setting


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path)


def test_a_grid_is_every_combination(config):
    axes = {"size": ["small", "xl"], "prompt.length": [1, 20], "seed": [0, 1, 2]}
    runs = expand([{"config": config, "axes": axes, "set": {"task": "cb", "train.steps": 7}}], "runs/x")
    assert len(runs) == 2 * 2 * 3
    assert names(runs)[:4] == [
        "small-length1-seed0",
        "small-length1-seed1",
        "small-length1-seed2",
        "small-length20-seed0",
    ]
    last = runs[-1]
    assert last.config == f"{config}:task=cb,size=xl"
    assert (last.experiment.model.path, last.experiment.task.name) == ("google/t5-xl-lm-adapt", "cb")
    assert (last.experiment.prompt.length, last.experiment.seed, last.experiment.train.steps) == (20, 2, 7)
    assert last.axes == {
        "task": "cb", "size": "xl", "length": 20, "method": "prompt_tuning", "init": "class_labels", "seed": 2,
    }  # fmt: skip


def test_names_do_not_depend_on_the_rest_of_the_grid(config):
    """So that a grid can grow in a directory, and a part of it be run by itself."""
    small = expand([{"config": config, "axes": {"size": ["xl"], "seed": [1]}}], "r")
    large = expand([{"config": config, "axes": {"size": ["small", "xl"], "seed": [0, 1]}}], "r")
    assert names(small) == ["xl-seed1"]
    assert {run.name: run.experiment for run in small}.items() <= {run.name: run.experiment for run in large}.items()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("task.source", "mini:sentiment/film", "mini_sentiment_film"),
        ("optim.learning_rate", 1e-05, "learning_rate1e-05"),
        ("train.dropout", True, "dropout"),
        ("train.dropout", False, "no_dropout"),
        ("prompt.init", "", "init"),
        ("prompt.stacks", ["encoder", "cross"], "stacksencoder_cross"),
        ("model.path", "../models/a b", "models_a_b"),
    ],
)
def test_names_are_fit_for_directories(config, key, value, part):
    (run,) = expand([{"config": config, "axes": {key: [value]}}], "r")
    assert run.name == part


def test_linked_values_and_models_of_earlier_stages(config):
    stages = [
        {"name": "adapt", "config": config, "axes": {"size": ["small", "xl"]}, "set": {"method": "model_tuning"}},
        {"name": "tune", "config": config, "labels": ["lm_steps"],
         "cases": [{"lm_steps": 0, "model": "google/t5-v1_1-{size}"},
                   {"lm_steps": 500, "model": "{root}/adapt-{size}/model-{lm_steps}", "train.steps": 9}],
         "axes": {"size": ["small", "xl"]}, "set": {"prompt.template": "{hypothesis} of {size}"}},
    ]  # fmt: skip
    runs = link(expand(stages, "gs://bucket/x/"), "gs://bucket/x/")
    assert names(runs) == [
        "adapt-small", "adapt-xl", "tune-lm_steps0-small", "tune-lm_steps0-xl",
        "tune-lm_steps500-steps9-small", "tune-lm_steps500-steps9-xl",
    ]  # fmt: skip
    assert [run.needs for run in runs] == [(), (), (), (), ("adapt-small",), ("adapt-xl",)]
    assert [run.experiment.model.path for run in runs[3:]] == [
        "google/t5-v1_1-xl", "gs://bucket/x/adapt-small/model-500", "gs://bucket/x/adapt-xl/model-500",
    ]  # fmt: skip
    assert runs[-1].experiment.prompt.template == "{hypothesis} of {size}", "a template's fields are its own"
    assert runs[-1].axes == {
        "stage": "tune", "lm_steps": 500, "train.steps": 9, "size": "xl", "task": "rte", "method": "prompt_tuning",
        "length": 100, "init": "class_labels", "seed": 0,
    }  # fmt: skip
    assert "length" not in runs[0].axes, "model tuning has no prompt"


MISTAKES = {
    "stage key": ({"axis": {}}, r"stage 0 has the key 'axis'; .*did you mean 'axes'"),
    "config key": ({"axes": {"prompt.lenght": [1]}}, r"run 'lenght1': unknown config key .*did you mean 'length'"),
    "kind of value": ({"axes": {"seed": ["0"]}}, r"run '0': seed should be of type int, got '0'"),
    "argument": ({"axes": {"sise": ["xl"]}}, r"grid.py:sise=xl: ValueError: no argument \['sise'\]"),
    "one text": ({"axes": {"size": "xl"}}, "each axis is a list of values"),
    "no value": ({"axes": {"size": []}}, "each axis is a list of values"),
    "comma": ({"axes": {"size": ["xl,task=cb"]}}, "a text without commas"),
    "section": ({"set": {"model.path.x": 1}}, "model.path is a value, not a section"),
    "same name": ({"axes": {"size": ["xl", "xl"]}}, r"two runs have the name 'xl'.*give their stages names"),
    "twice": ({"axes": {"seed": [0]}, "cases": [{"seed": 1}]}, "has seed both as an axis and in cases"),
    "fold": ({"fold": ["task"]}, r"folds 'task'; expected one of \['seed', 'optim.learning_rate'\]"),
    "braces": (
        {"set": {"model.path": "{root}/{sise}/model"}},
        r"names \{sise\}; expected one of \['root', 'model.path'",
    ),
    "no such run": (
        {"axes": {"seed": [3]}, "set": {"model.path": "{root}/adapt/model"}},
        "starts from r/adapt/model, which is not there, and no run",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_runs(config, mistake):
    stage, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message):
        link(expand([{"config": config} | stage], "r"), "r")


def test_config_files(tmp_path, config):
    (tmp_path / "alone.py").write_text(ALONE)
    assert read_config(config, {})[0] == config
    assert read_config(f"{config}:size=xl", {"task": "cb"})[0] == f"{config}:size=xl,task=cb"
    assert read_config(str(tmp_path / "alone.py"), {"task": "cb"})[0] == f"{tmp_path / 'alone.py'}:cb"
    with pytest.raises(ConfigError, match=r"takes task as its whole argument, which leaves no place for .'size'."):
        read_config(str(tmp_path / "alone.py"), {"task": "cb", "size": "xl"})
    with pytest.raises(ConfigError, match=r"there is no Python file 'grid\.yaml'"):
        read_config("grid.yaml", {})
    with pytest.raises(ConfigError, match="has no function get_sweep"):
        read_sweep(config)


def test_what_is_typed_has_its_keys_kind():
    assert read_axis("seed=0,1,2") == ("seed", [0, 1, 2])
    assert read_axis("optim.learning_rate=1,0.3") == ("optim.learning_rate", [1.0, 0.3])
    assert read_axis("size=small,100,2m,1e3,0.5") == ("size", ["small", 100, "2m", "1e3", 0.5])
    assert read_setting("prompt.text=5") == ("prompt.text", "5")
    assert read_setting("train.dropout=false") == ("train.dropout", False)
    assert read_setting("task.metrics=f1,accuracy") == ("task.metrics", ("f1", "accuracy"))
    assert read_setting("train.seeds=3,4") == ("train.seeds", (3, 4))
    assert read_setting("optim.clip_norm=1") == ("optim.clip_norm", 1.0)
    for text, message in {
        "train.steps=ten": "train.steps=ten: invalid literal for int",
        "train.dropout=2": "expected true or false, got '2'",
        "train.stepz=2": "did you mean 'steps'",
        "model.x=2": "unknown config key",
        "seed": "'seed' is not of the form KEY=VALUE",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_setting(text)


PAPER = {"figure1": 120 + 120 + 40 + 15, "figure3a": 600, "figure3b": 360, "figure3c": 360, "figure3d": 5 + 480,
         "table1": 6, "table2": 12, "table3": 8, "methods": 360}  # fmt: skip
"""Runs of five sizes, eight tasks and three seeds each."""


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_grids(monkeypatch, name):
    """Every run is an experiment with a name of its own, and what it starts from is made before it."""
    monkeypatch.chdir(nano.ROOT)
    stages = read_sweep(f"configs/sweeps/lester.py:{name}")
    sizes = [math.prod(map(len, stage["axes"].values())) * len(stage.get("cases", [{}])) for stage in stages]
    assert sum(sizes) == PAPER[name]
    for stage in stages:  # a corner of the grid, which takes less time
        stage["axes"] = {
            key: values if key in ("method", "seed") else values[:2] for key, values in stage["axes"].items()
        }
    assert link(fold(expand(stages, "runs/lester")), "runs/lester")


@pytest.mark.parametrize("file", sorted((nano.ROOT / "configs/sweeps").glob("*.py")), ids=lambda path: path.stem)
def test_sweep_files_say_how_they_are_run(file):
    assert f"python launch/sweep.py --sweep=configs/sweeps/{file.name}" in file.read_text()
