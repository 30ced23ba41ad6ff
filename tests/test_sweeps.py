"""Sweeps as data: runs of a grid, their names, folding, selection, and commands that mean the same experiments."""

import math
import shlex
import sys

import nano
import pytest
from absl import flags
from ml_collections import config_flags

from jaxprompt.cli import read_experiment
from jaxprompt.experiment import ConfigError
from jaxprompt.sweeps.commands import train_command
from jaxprompt.sweeps.config_files import read_config, read_sweep
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import expand, link
from jaxprompt.sweeps.selection import select, share
from jaxprompt.sweeps.settings import as_flag, read_axis, read_setting
from jaxprompt.sweeps.sweep import open_sweep

CONFIG = '''
from jaxprompt.experiment import Experiment


def get_config(argument=""):
    """As configs/lester.py takes its arguments, cut down."""
    chosen = {"size": "small", "task": "rte", "method": "prompt_tuning", "model": ""}
    chosen |= dict(part.partition("=")[::2] for part in argument.split(",") if part)
    if extra := chosen.keys() - {"size", "task", "method", "model"}:
        raise ValueError(f"no argument {sorted(extra)}")
    return Experiment().to_config(
        model={"path": chosen["model"] or f"google/t5-{chosen['size']}-lm-adapt"},
        prompt={"method": chosen["method"], "length": 100, "init": "class_labels"},
        task={"name": chosen["task"], "source": f"tfds:super_glue/{chosen['task']}"},
    )
'''
ALONE = CONFIG.replace('argument=""', 'task="rte"').replace("argument.split", '"".split')


@pytest.fixture
def config(tmp_path):
    (tmp_path / "grid.py").write_text(CONFIG)
    return str(tmp_path / "grid.py")


def names(runs):
    return [run.name for run in runs]


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


AXES = {"task": ["rte", "cb"], "seed": [0, 1, 2], "optim.learning_rate": [0.1, 0.3]}


def test_seeds_and_rates_are_folded(config):
    grid = expand([{"config": config, "axes": AXES}], "r")
    folded = fold(grid)
    assert names(folded) == ["rte", "cb"]
    assert [run.folded for run in folded] == [6, 6]
    train = folded[1].experiment.train
    assert train.num_prompts == 6
    assert train.seeds == (0, 0, 1, 1, 2, 2)
    assert train.learning_rates == (0.1, 0.3, 0.1, 0.3, 0.1, 0.3)
    assert folded[1].experiment.task.name == "cb"
    assert folded[1].axes == {
        "task": "cb", "method": "prompt_tuning", "length": 100, "init": "class_labels",
        "seeds": [0, 0, 1, 1, 2, 2], "learning_rates": [0.1, 0.3, 0.1, 0.3, 0.1, 0.3],
    }  # fmt: skip
    # The members are the grid's runs in all else.
    cell = [run.experiment.to_dict() for run in grid if run.experiment.task.name == "cb"]
    for member, seed, rate in zip(cell, train.seeds, train.learning_rates, strict=True):
        assert (member["seed"], member["optim"]["learning_rate"]) == (seed, rate)
        member["seed"], member["optim"]["learning_rate"] = 0, 0.1
        member["train"] |= {"num_prompts": 6, "seeds": train.seeds, "learning_rates": train.learning_rates}
        assert member == folded[1].experiment.to_dict()


def test_a_stage_says_along_what_it_folds(config):
    seeds = fold(expand([{"config": config, "axes": AXES, "fold": ["seed"]}], "r"))
    assert names(seeds) == [
        "rte-learning_rate0.1",
        "rte-learning_rate0.3",
        "cb-learning_rate0.1",
        "cb-learning_rate0.3",
    ]
    assert seeds[1].experiment.train.seeds == (0, 1, 2)
    assert (seeds[1].experiment.train.learning_rates, seeds[1].experiment.optim.learning_rate) == ((), 0.3)
    assert (seeds[1].axes["seeds"], seeds[1].axes["learning_rate"]) == ([0, 1, 2], 0.3)
    grid = expand([{"config": config, "axes": AXES, "fold": []}], "r")
    assert fold(grid) == grid


@pytest.mark.parametrize(
    "change",
    [
        {"method": "model_tuning"},
        {"train.tune_model": True},
        {"train.num_prompts": 5},
        {"model.from_scratch": True},
        {"corpus.objective": "prefix_lm"},
    ],
)
def test_what_shares_no_frozen_model_is_not_folded(config, change):
    grid = expand([{"config": config, "axes": {"seed": [0, 1]}, "set": change}], "r")
    assert fold(grid) == grid


def test_a_cell_of_one_has_the_cells_name(config):
    grid = expand([{"config": config, "axes": AXES}], "r")
    (one,) = fold(select(grid, {"task": ["cb"], "seed": ["1"], "optim.learning_rate": ["0.3"]}))
    assert (one.name, one.folded, one.experiment.train.num_prompts) == ("cb", 1, 1)
    assert (one.experiment.seed, one.axes["seed"], one.axes["learning_rate"]) == (1, 1, 0.3)


def test_selection(config):
    stages = [{"name": "first", "config": config, "axes": {"size": ["small", "xl"]}},
              {"name": "then", "config": config, "axes": AXES}]  # fmt: skip
    runs = expand(stages, "r")
    assert names(select(runs, {"size": ["xl"], "task": ["cb"], "seed": ["2"]})) == [
        "first-xl", "then-cb-seed2-learning_rate0.1", "then-cb-seed2-learning_rate0.3",
    ]  # fmt: skip
    assert len(select(runs, {"stage": ["then"]})) == 12
    with pytest.raises(ConfigError, match=r"no run has the axis 'tusk'; .*did you mean 'task'"):
        select(runs, {"tusk": ["cb"]})
    with pytest.raises(ConfigError, match=r"no run has task=rtw; .*did you mean 'rte'"):
        select(runs, {"task": ["rtw"]})


def test_shares_are_disjoint_and_keep_together_what_hangs_together(config):
    stages = [{"name": "adapt", "config": config, "axes": {"size": ["small", "base", "xl"]}},
              {"name": "tune", "config": config, "axes": {"size": ["small", "base", "xl"], "task": ["rte", "cb"]},
               "set": {"model": "{root}/adapt-{size}/model"}},
              {"name": "alone", "config": config, "axes": {"task": ["rte", "cb", "boolq"]}}]  # fmt: skip
    runs = link(expand(stages, "r"), "r")
    parts = [share(runs, index, 2) for index in range(2)]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(names(runs))
    for part in parts:
        assert all(need in names(part) for run in part for need in run.needs)
    assert [sum(name.startswith("alone") for name in names(part)) for part in parts] == [1, 2]
    assert share(runs, 0, 1) == runs


def parsed(command):
    """The experiment and the directory that `launch/train.py` makes of a command."""
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "launch/train.py")
    holder, argv = flags.FlagValues(), sys.argv
    sys.argv = [script, *arguments]  # where ml_collections looks for overrides
    try:
        config_flags.DEFINE_config_file("config", flag_values=holder, lock_config=True)
        flags.DEFINE_string("workdir", None, "", flag_values=holder)
        assert holder(sys.argv) == [script]
    finally:
        sys.argv = argv
    return read_experiment(holder.config), holder.workdir


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections 1.1 on Python 3.11
def test_commands_mean_the_same_experiments(config):
    text = {"prompt.template": "it's {premise} \"{soft:3}\" $HOME", "prompt.stacks": ["encoder", "cross"],
            "optim.clip_norm": 1, "train.dropout": False, "task.metrics": ["f1"]}  # fmt: skip
    stages = [
        {"config": config, "axes": AXES | {"size": ["xl"]}, "set": text},
        {"config": config, "axes": AXES | {"method": ["model_tuning"]}},
    ]
    runs = fold(expand(stages, "r"))
    assert len(runs) == 2 + 12
    for run in runs:
        assert parsed(train_command(run, "runs/my grid")) == (run.experiment, f"runs/my grid/{run.name}")
    with pytest.raises(ConfigError, match=r"optim\.clip_norm=None cannot be written as a flag"):
        as_flag("optim.clip_norm", None)


def test_a_sweep_as_it_is_asked_for(config):
    options = {"config": config, "axes": ["task=rte,cb", "seed=0,1"], "settings": ["train.steps=5"]}
    runs, everything = open_sweep("r", **options, only=["task=cb"])
    assert (names(runs), names(everything)) == (["cb"], ["rte", "cb"])
    assert runs[0].experiment.train.steps == 5
    assert names(open_sweep("r", **options, folds=False, part="1/2")[0]) == ["rte-seed1", "cb-seed1"]
    for wrong, message in {
        ("sweep", "x.py"): "give either a sweep file",
        ("part", "2/2"): "--share is '2/2'; expected I/N",
        ("settings", ("seed=3",)): "seed is an axis of stage 0 and cannot be set for all",
    }.items():
        with pytest.raises(ConfigError, match=message):
            open_sweep("r", **options | dict([wrong]))


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
