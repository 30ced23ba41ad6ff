"""SuperGLUE as text to text: T5's preprocessing, the leading task name dropped (Lester et al. 2021, section 3).

Labels stand in the order of TFDS's label numbers; the same formats read the benchmark's own JSON lines, where labels
are names or truth values.
"""

from __future__ import annotations

from jaxprompt.data.labelled import labelled_format
from jaxprompt.data.task_format import TaskFormat

_RTE = labelled_format(
    "rte",
    "hypothesis: {hypothesis} premise: {premise}",
    ("entailment", "not_entailment"),
    hard_prompt="Text: {premise} Claim: {hypothesis} Does the claim follow from the text? "
    "Answer entailment or not_entailment. Answer:",
    aliases={"premise": ("sentence1",), "hypothesis": ("sentence2",)},  # GLUE's names for the same pair
)

_CB = labelled_format(
    "cb",
    "hypothesis: {hypothesis} premise: {premise}",
    ("entailment", "contradiction", "neutral"),
    metrics=("mean_f1", "accuracy"),
    hard_prompt="Text: {premise} Claim: {hypothesis} Does the text support the claim, contradict it, or neither? "
    "Answer entailment, contradiction or neutral. Answer:",
)

_BOOLQ = labelled_format(
    "boolq",
    "passage: {passage} question: {question}",
    ("False", "True"),
    hard_prompt="Read the passage and answer the question with True or False. "
    "Passage: {passage} Question: {question}? Answer:",
)

FORMATS: dict[str, TaskFormat] = {task.name: task for task in (_RTE, _CB, _BOOLQ)}
TFDS: dict[str, str] = {name: f"super_glue/{name}" for name in FORMATS}
"""Where TFDS keeps each task."""
