"""What becomes of a grid's runs: folded, selected, shared, and written as commands that mean the same experiments."""

import shlex
import sys

import pytest
from absl import flags
from grid_config import names, write_config
from ml_collections import config_flags

from jaxprompt.cli import read_experiment
from jaxprompt.experiment import ConfigError
from jaxprompt.sweeps.commands import train_command
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import expand, link
from jaxprompt.sweeps.selection import select, share
from jaxprompt.sweeps.settings import as_flag
from jaxprompt.sweeps.sweep import open_sweep

AXES = {"task": ["rte", "cb"], "seed": [0, 1, 2], "optim.learning_rate": [0.1, 0.3]}


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path)


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
