"""How much a run scores: its evaluations in batches, as far as the sizes of splits are known without the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxprompt.data import mini
from jaxprompt.data.named_source import NamedSource
from jaxprompt.experiment import Experiment
from jaxprompt.planning.step_program import task_format

SIZES: Mapping[str, int] = {
    "boolq": 3270,
    "cb": 56,
    "copa": 100,
    "multirc": 4848,
    "record": 10000,
    "rte": 277,
    "wic": 638,
    "wsc": 104,
    "sst2": 872,
    "mrpc": 408,
    "qqp": 40430,
    "glue_rte": 277,
    "squad": 10570,
    "mrqa_bioasq": 1504,
    "mrqa_drop": 1503,
    "mrqa_duorc": 1501,
    "mrqa_race": 674,
    "mrqa_relation_extraction": 2948,
    "mrqa_textbookqa": 1503,
}
"""Examples of the validation splits of SuperGLUE, GLUE and SQuAD 1.1, as TFDS has them, and of MRQA's other domains
(Fisch et al. 2019, table 1)."""

_VALIDATION = "validation"
_Sets = dict[str, int | None]


def scored_batches(experiment: Experiment) -> tuple[int, tuple[str, ...]]:
    """The batches that a run scores in all, and the names of sets that are not among them, their sizes being unknown.

    Pre-training is taken to read one document a row, which is the most that it can take.
    """
    eval, train = experiment.eval, experiment.train
    if experiment.corpus.objective:
        batches = math.ceil(experiment.corpus.validation_documents / eval.batch_size)
        return math.ceil(train.steps / eval.every) * batches, ()
    finally_ = 1 + (2 if eval.baselines else 0)
    validation, others = _validation_sets(experiment), _transfer_sets(experiment)
    total = _batches(validation, experiment) * (_rounds(experiment) + finally_) + _batches(others, experiment)
    return total, tuple(name for name, size in {**others, **validation}.items() if size is None)


def trains(experiment: Experiment) -> bool:
    """Whether anything is trained; a prompt of text is only scored."""
    return experiment.prompt.method != "prompt_design"


def _rounds(experiment: Experiment) -> int:
    """Evaluations on the validation split that choose."""
    if trains(experiment):
        return math.ceil(experiment.train.steps / experiment.eval.every)
    method: Any = experiment.prompt.build()
    return len(method.shots)


def _batches(sets: _Sets, experiment: Experiment) -> int:
    return sum(math.ceil(size / experiment.eval.batch_size) for size in sets.values() if size)


def _validation_sets(experiment: Experiment) -> _Sets:
    task = experiment.task
    if not task.mixture:
        name = task_format(experiment).name
        return {name: _size(name, task.source, task.validation_split, experiment)}
    entries = [entry for entry in map(NamedSource.parse, task.mixture) if entry.split != ""]
    return {
        entry.name: _size(entry.name, entry.source or task.source, entry.split or task.validation_split, experiment)
        for entry in entries
    }


def _transfer_sets(experiment: Experiment) -> _Sets:
    final = experiment.task.test_split or experiment.task.validation_split
    return {
        (name := entry.name or entry.source.partition(":")[2]): _size(
            name, entry.source, entry.split or final, experiment
        )
        for entry in map(NamedSource.of_source, experiment.eval.transfer)
    }


def _size(name: str, source: str, split: str, experiment: Experiment) -> int | None:
    kind, _, place = source.partition(":")
    size = None
    if kind == "mini":
        size = len(mini.records(place, split))
    elif kind == "tfds" and (split == _VALIDATION or name.startswith("mrqa_")):
        size = SIZES.get(name)
    most = experiment.eval.max_examples
    return (most or None) if size is None else min(size, most or size)
