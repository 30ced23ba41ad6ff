"""From a sweep as plain data to its runs.

A sweep is a list of stages, each a dict:

    {"name": "tune",                                  in front of its runs' names; may be left out
     "config": "configs/lester.py",                   a config file, as `--config` takes it
     "axes": {"size": [...], "seed": [0, 1, 2]},      every combination is a run
     "cases": [{"prompt.length": 1, "train.steps": 10}, ...],   linked values; each is combined with all of the axes
     "set": {"model.path": "{root}/adapt-{size}/model"},        the same for all runs
     "labels": ["lm_steps"],                          axes that the config does not know: they name runs and models
     "fold": ["seed", "optim.learning_rate"]}         what runs that are made one may differ in (the default)

A key with a dot, or `seed`, is one of the experiment; any other is an argument of the config file, or a label. In a
text, but for `prompt.template`, an axis in braces stands for its value as runs' names have it, and `{root}` for the
sweep's directory: `{root}/RUN/model` is the model that an earlier run made.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jaxprompt.config_values import ConfigError, expected
from jaxprompt.experiment import Experiment
from jaxprompt.paths import as_path
from jaxprompt.prompts.p_tuning import PTuning
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.sweeps.config_files import read_config
from jaxprompt.sweeps.settings import is_key, with_settings

STAGE_KEYS = ("name", "config", "axes", "cases", "set", "labels", "fold")
FOLDED = ("seed", "optim.learning_rate")
"""What runs that are folded into one may differ in."""
PROMPT_METHODS = (PromptTuning.name, PrefixTuning.name, PTuning.name)
"""Methods that train a prompt, and leave the model as it is."""
_SHORT = {"task.name": "task", "prompt.method": "method", "prompt.length": "length", "prompt.init": "init"}
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        stage: the number of its stage.
        parts: {axis: its part of the run's name}, the stage's name under an empty key.
        config: what `--config` is given.
        settings: {key: value} set beyond that.
        experiment: the outcome of both.
        values: {axis: value}, what a selection looks at.
        axes: what the run's `axes.json` holds.
        fold: in which keys it may differ from runs that it is made one with.
        needs: names of runs whose output it starts from.
        folded: how many runs of the grid it is.
    """

    stage: int
    parts: Mapping[str, str]
    config: str
    settings: Mapping[str, Any]
    experiment: Experiment
    values: Mapping[str, Any]
    axes: Mapping[str, Any]
    fold: tuple[str, ...] = FOLDED
    needs: tuple[str, ...] = ()
    folded: int = 1

    @property
    def name(self) -> str:
        """Of its directory; where no axis tells it, the config file's."""
        return "-".join(filter(None, self.parts.values())) or PurePath(self.config.partition(":")[0]).stem


def expand(stages: Sequence[Mapping[str, Any]], root: str, settings: Mapping[str, Any] | None = None) -> list[Run]:
    """All runs of a sweep, in order, before any are folded.

    Args:
        stages: see the module.
        root: the sweep's directory.
        settings: keys of the experiment, or arguments of the config files, that are set anew for all.

    Raises:
        ConfigError: a stage, key or value means nothing, or two runs have the same name.
    """
    runs: list[Run] = []
    known: dict[str, tuple[str, Experiment]] = {}
    for number, stage in enumerate(stages):
        _check_stage(stage, number, settings or {})
        axes = stage.get("axes", {})
        constants = {**stage.get("set", {}), **(settings or {})}
        for case in stage.get("cases", [{}]):
            for values in itertools.product(*axes.values()):
                point = {**case, **dict(zip(axes, values, strict=True))}
                runs.append(_run(stage, number, point, constants, root.rstrip("/"), known))
    _check_names(runs)
    return runs


def link(runs: Sequence[Run], root: str) -> list[Run]:
    """The same runs, each with the names of those whose output it starts from.

    Args:
        runs: all of a sweep, folded as they will be.
        root: the sweep's directory.

    Raises:
        ConfigError: one starts from what is not there, and no run before it makes.
    """
    _check_names(runs)
    earlier: list[str] = []
    linked = []
    for run in runs:
        needs: dict[str, None] = {}
        for path in sources(run.experiment):
            if (name := source_run(path, root)) in earlier:
                needs[name] = None
            elif name and not as_path(path).exists():
                raise ConfigError(
                    f"{run.name} starts from {path}, which is not there, and no run before it is called {name}; "
                    f"{expected(name, earlier)}"
                )
        linked.append(dataclasses.replace(run, needs=tuple(needs)))
        earlier.append(run.name)
    return linked


def sources(experiment: Experiment) -> tuple[str, str, str]:
    """Paths that an experiment reads and that another run may have written."""
    return experiment.model.path, experiment.model.tokenizer, experiment.prompt.path


def source_run(path: str, root: str) -> str:
    """The name of the run whose directory a path lies in; empty where it lies in none of the sweep's."""
    inside = path.removeprefix(f"{root.rstrip('/')}/")
    return "" if inside == path else inside.partition("/")[0]


def _check_stage(stage: Mapping[str, Any], number: int, settings: Mapping[str, Any]) -> None:
    where = f"stage {stage.get('name') or number}"
    for key in stage:
        if key not in STAGE_KEYS:
            raise ConfigError(f"{where} has the key {key!r}; {expected(key, STAGE_KEYS)}")
    if not stage.get("config"):
        raise ConfigError(f"{where} names no config file; give it the key 'config'")
    cases, axes = stage.get("cases", [{}]), stage.get("axes", {})
    if not cases or any(isinstance(values, str) or not values for values in axes.values()):
        raise ConfigError(f"{where} has no runs: each axis is a list of values, and there is a case at least")
    varying = [*axes, *(key for case in cases for key in case)]
    for key in dict.fromkeys(varying):
        if key in settings:
            raise ConfigError(f"{key} is an axis of {where} and cannot be set for all; select values of it instead")
        if key in axes and any(key in case for case in cases):
            raise ConfigError(f"{where} has {key} both as an axis and in cases")
    for key in stage.get("fold", ()):
        if key not in FOLDED:
            raise ConfigError(f"{where} folds {key!r}; {expected(key, FOLDED)}")


def _check_names(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        if run.name in seen:
            raise ConfigError(
                f"two runs have the name {run.name!r}: {dict(seen[run.name].values)} and {dict(run.values)}; give "
                "their stages names, or tell them apart by an axis or a label"
            )
        seen[run.name] = run


def _run(
    stage: Mapping[str, Any],
    number: int,
    point: Mapping[str, Any],
    constants: Mapping[str, Any],
    root: str,
    known: dict[str, tuple[str, Experiment]],
) -> Run:
    name, labels = stage.get("name", ""), stage.get("labels", ())
    given = {**constants, **point}
    values = {key: _resolved(key, value, given, root) for key, value in given.items()}
    arguments = {key: value for key, value in values.items() if not is_key(key) and key not in labels}
    keys = {key: value for key, value in values.items() if is_key(key)}
    parts = {"": name} | {key: _part(key, value) for key, value in point.items() if not _depends(key, value)}
    try:
        asked = repr((stage["config"], arguments))
        if asked not in known:  # most runs differ in keys alone
            known[asked] = read_config(stage["config"], arguments)
        config, experiment = known[asked]
        experiment = with_settings(experiment, keys)
    except ConfigError as error:
        raise ConfigError(f"the run {'-'.join(filter(None, parts.values()))!r}: {error}") from error
    told = {
        key: value for key, value in given.items() if (key in point or not is_key(key)) and not _depends(key, value)
    }
    return Run(
        number,
        parts,
        config,
        keys,
        experiment,
        ({"stage": name} if name else {}) | told,
        _axes(name, told, experiment),
        tuple(stage.get("fold", FOLDED)),
    )


def _axes(stage: str, told: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """What describes a run to whoever gathers results: the usual axes under their short names, and what else varies."""
    axes: dict[str, Any] = {"stage": stage} if stage else {}
    axes |= {_SHORT.get(key, key): value for key, value in told.items() if key not in FOLDED}
    prompt, task = experiment.prompt, experiment.task
    if not experiment.corpus.objective:
        usual: dict[str, Any] = {"task": task.name or task.source, "method": prompt.method}
        if prompt.method in PROMPT_METHODS:
            usual |= {"length": prompt.length, "init": prompt.init}
        axes |= {name: value for name, value in usual.items() if value and name not in axes}
    train = experiment.train
    seeds = train.seeds or tuple(range(experiment.seed, experiment.seed + train.num_prompts))
    axes |= {"seed": seeds[0]} if train.num_prompts == 1 else {"seeds": list(seeds)}
    if train.learning_rates:
        axes["learning_rates"] = list(train.learning_rates)
    elif "optim.learning_rate" in told:
        axes["learning_rate"] = experiment.optim.learning_rate
    return axes


def _depends(key: str, value: Any) -> bool:
    """Whether a value is a text that says less than the values that stand for its braces."""
    return isinstance(value, str) and key != "prompt.template" and _BRACES.search(value) is not None


def _resolved(key: str, value: Any, given: Mapping[str, Any], root: str) -> Any:
    if not _depends(key, value):
        return value

    def text(found: re.Match[str]) -> str:
        if found[1] == "root":
            return root
        if found[1] not in given or found[1] == key:
            raise ConfigError(f"{key}={value!r} names {found[0]}; {expected(found[1], ['root', *given])}")
        return _readable(given[found[1]])

    return _BRACES.sub(text, value)


def _part(key: str, value: Any) -> str:
    """What a value adds to a run's name: a number goes with its key."""
    short = key.rpartition(".")[2]
    if isinstance(value, bool):
        return short if value else f"no_{short}"
    text = _readable(value)
    return text if isinstance(value, str) and text else short + text


def _readable(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "_", written(value)).strip("_.")


def written(value: Any) -> str:
    """A value as text, the values of a list with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
