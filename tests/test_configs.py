"""The files in `configs/`: all of them build, round-trip, and say how they are used."""

import importlib.util
import json

import nano
import pytest

from jaxprompt.cli import read_experiment
from jaxprompt.data.tasks import load_task
from jaxprompt.experiment import Experiment

ARGUMENTS = {
    "lester": (
        "size=xxl,task=boolq",
        "size=base,task=rte",
        "task=cb",
        "task=superglue,method=model_tuning",
        "task=record,method=prompt_design",
        "task=squad,method=p_tuning,lm_steps=10000",
    ),
    "nano_t5": ("span", "lm"),
    "nano_gpt2": ("learn", "settle"),
    "prefix_e2e": ("mini", "gpt2-large"),
    "prefix_webnlg": ("gpt2-large",),
    "ptuning_fewglue": ("rte", "cb", "boolq"),
    "ptuning_lama": ("P20", "P19,t5", "mini:country", "mini:country,t5"),
    "quickstart": ("sentiment", "entailment", "paraphrase"),
}
"""Arguments of configs that take some, besides their default."""
NAMES = sorted(path.stem for path in (nano.ROOT / "configs").glob("*.py"))


def module(name):
    spec = importlib.util.spec_from_file_location(f"configs_{name}", nano.ROOT / "configs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


CASES = [(name, argument) for name in NAMES for argument in (None, *ARGUMENTS.get(name, ()))]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_a_config_builds_and_round_trips(name, argument):
    config = module(name).get_config(*([] if argument is None else [argument]))
    assert config.is_locked
    experiment = read_experiment(config)
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
    if not experiment.corpus.objective and experiment.task.source.startswith("mini:"):
        task = load_task(experiment.task.name or None, experiment.task.source)
        experiment.prompt.build(task.format.labels)
        for split in (experiment.task.train_split, experiment.task.validation_split, experiment.task.test_split):
            assert not split or split in task.splits


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_how_to_run_it(name):
    assert f"python launch/train.py --config=configs/{name}.py" in module(name).__doc__


def test_arguments_are_of_configs_that_exist():
    assert ARGUMENTS.keys() <= set(NAMES)
    with pytest.raises(ValueError, match=r"knows the stages \['lm', 'span'\], not 'spam'"):
        module("nano_t5").get_config("spam")
    with pytest.raises(ValueError, match=r"knows the stages \['learn', 'settle'\], not 'spam'"):
        module("nano_gpt2").get_config("spam")
