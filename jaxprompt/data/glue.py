"""Tasks of GLUE as text to text: T5's preprocessing, the leading task name dropped.

`glue_rte` is GLUE's wording of RTE, which names its texts sentence1 and sentence2; `rte` is SuperGLUE's of the same
pairs.
"""

from __future__ import annotations

from jaxprompt.data.labelled import labelled_format
from jaxprompt.data.task_format import TaskFormat

_SST2 = labelled_format(
    "sst2",
    "sentence: {sentence}",
    ("negative", "positive"),
    hard_prompt="Is this sentence from a review negative or positive? Sentence: {sentence} Answer:",
)

_RTE = labelled_format(
    "glue_rte",
    "sentence1: {sentence1} sentence2: {sentence2}",
    ("entailment", "not_entailment"),
    hard_prompt="Text: {sentence1} Claim: {sentence2} Does the claim follow from the text? "
    "Answer entailment or not_entailment. Answer:",
)

_MRPC = labelled_format(
    "mrpc",
    "sentence1: {sentence1} sentence2: {sentence2}",
    ("not_equivalent", "equivalent"),
    metrics=("f1", "accuracy"),
    hard_prompt="First sentence: {sentence1} Second sentence: {sentence2} Do the two sentences mean the same? "
    "Answer equivalent or not_equivalent. Answer:",
    # The column names of Microsoft's own files.
    aliases={"sentence1": ("#1 String",), "sentence2": ("#2 String",), "label": ("Quality",)},
)

_QQP = labelled_format(
    "qqp",
    "question1: {question1} question2: {question2}",
    ("not_duplicate", "duplicate"),
    metrics=("f1", "accuracy"),
    hard_prompt="First question: {question1} Second question: {question2} Do the two questions ask the same? "
    "Answer duplicate or not_duplicate. Answer:",
    aliases={"label": ("is_duplicate",)},  # GLUE's own files
)

FORMATS: dict[str, TaskFormat] = {task.name: task for task in (_SST2, _MRPC, _QQP, _RTE)}
TFDS: dict[str, str] = {name: f"glue/{name}" for name in FORMATS} | {"glue_rte": "glue/rte"}
"""Where TFDS keeps each task."""
