"""Tasks of GLUE as text to text: T5's preprocessing, the leading task name dropped."""

from __future__ import annotations

from jaxprompt.data.labelled import labelled_format
from jaxprompt.data.task_format import TaskFormat

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

FORMATS: dict[str, TaskFormat] = {task.name: task for task in (_MRPC,)}
TFDS: dict[str, str] = {name: f"glue/{name}" for name in FORMATS}
"""Where TFDS keeps each task."""
