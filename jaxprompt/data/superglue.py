"""SuperGLUE as text to text: T5's preprocessing, the leading task name dropped (Lester et al. 2021, section 3).

The texts are, to the character, what stands behind the first space in those of the `t5` package. Labels stand in the
order of TFDS's label numbers; the same formats read the benchmark's own JSON lines, where labels are names or truth
values, and passages hold several questions.

Inputs have 512 tokens at most. Of targets the released code keeps what a task needs, 8 tokens for SST-2 and "around 4"
for SuperGLUE's labels, and T5X by default 62, which ReCoRD and WSC have here; more than is needed is padding.
"""

from __future__ import annotations

from jaxprompt.data.labelled import labelled_format
from jaxprompt.data.multirc import MULTIRC
from jaxprompt.data.record import RECORD
from jaxprompt.data.task_format import TaskFormat
from jaxprompt.data.wsc import WSC

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

_COPA = labelled_format(
    "copa",
    "choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
    ("choice1", "choice2"),
    hard_prompt="{premise} Which is the more likely {question} of this, choice1 or choice2? "
    "choice1: {choice1} choice2: {choice2} Answer:",
)

_WIC = labelled_format(
    "wic",
    "sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    ("False", "True"),
    hard_prompt="First sentence: {sentence1} Second sentence: {sentence2} "
    "Does the word {word} mean the same in both sentences, True or False? Answer:",
)

FORMATS: dict[str, TaskFormat] = {task.name: task for task in (_RTE, _CB, _BOOLQ, _COPA, MULTIRC, RECORD, _WIC, WSC)}
TFDS: dict[str, str] = {name: f"super_glue/{name}" for name in FORMATS} | {"wsc": "super_glue/wsc.fixed"}
"""Where TFDS keeps each task."""
