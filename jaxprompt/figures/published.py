"""What was published, as it was printed: every number that our figures and tables show beside our own.

Scores are in percent. Lester, Al-Rfou and Constant, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP
2021; Vu et al., "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer", ACL 2022.
"""

from __future__ import annotations

from collections.abc import Mapping

Spread = tuple[float, float | None]
"""A mean and the standard deviation around it, None where none was printed."""

SIZES: Mapping[str, int] = {
    "small": 76_961_152,
    "base": 247_577_856,
    "large": 783_150_080,
    "xl": 2_849_757_184,
    "xxl": 11_135_332_352,
}
"""Parameters of T5 1.1: total less trainable ones in Lester et al., table 4."""

FIGURE_1: Mapping[str, Mapping[str, Spread]] = {
    "prompt_design": {
        "small": (40.6, None),
        "base": (43.4, None),
        "large": (45.1, None),
        "xl": (47.8, None),
        "xxl": (52.8, None),
    },
    "prompt_tuning": {
        "small": (59.8, 0.8),
        "base": (63.1, 1.1),
        "large": (74.5, 2.2),
        "xl": (79.2, 0.9),
        "xxl": (88.8, 0.2),
    },
    "model_tuning": {
        "small": (62.8, None),
        "base": (73.7, None),
        "large": (81.3, None),
        "xl": (83.1, None),
        "xxl": (89.9, None),
    },
}
"""SuperGLUE scores on the development sets by method and size: Vu et al., table 4. (Figure 1 of Lester et al. has no
numbers.) Prompt design is GPT-3's, at the sizes that they set beside T5's; their multi-task baseline is another than
Lester et al.'s, and stays out."""

SHIFT_SIZE = "xxl"
"""Of tables 1 and 2, whose captions name no size; the scores on SQuAD are XXL's."""

DOMAINS: Mapping[str, str] = {
    "squad": "Wiki",
    "textbookqa": "Book",
    "bioasq": "Bio",
    "race": "Exam",
    "re": "Wiki",
    "duorc": "Movie",
    "drop": "Wiki",
}
"""What the texts of each set are, in the order of Lester et al., table 1."""

SHIFT: Mapping[tuple[str, str, str], tuple[Spread, Spread]] = {
    ("squad", "squad", "f1"): ((94.9, 0.2), (94.8, 0.1)),
    ("squad", "textbookqa", "f1"): ((54.3, 3.7), (66.8, 2.9)),
    ("squad", "bioasq", "f1"): ((77.9, 0.4), (79.1, 0.3)),
    ("squad", "race", "f1"): ((59.8, 0.6), (60.7, 0.5)),
    ("squad", "re", "f1"): ((88.4, 0.1), (88.8, 0.2)),
    ("squad", "duorc", "f1"): ((68.9, 0.7), (67.7, 1.1)),
    ("squad", "drop", "f1"): ((68.9, 1.7), (67.1, 1.9)),
    ("qqp", "mrpc", "accuracy"): ((73.1, 0.9), (76.3, 0.1)),
    ("qqp", "mrpc", "f1"): ((81.2, 2.1), (84.3, 0.3)),
    ("mrpc", "qqp", "accuracy"): ((74.9, 1.3), (75.4, 0.8)),
    ("mrpc", "qqp", "f1"): ((70.9, 1.2), (69.7, 0.3)),
}
"""{(trained on, evaluated on, metric): (model tuning, prompt tuning)}: Lester et al., tables 1 (SQuAD) and 2."""

ENSEMBLE_SIZE, ENSEMBLE_PROMPTS = "xxl", 5

ENSEMBLE: Mapping[tuple[str, str], tuple[float, float, float]] = {
    ("boolq", "accuracy"): (91.1, 91.3, 91.7),
    ("cb", "accuracy"): (99.3, 100.0, 100.0),
    ("cb", "f1"): (99.0, 100.0, 100.0),
    ("copa", "accuracy"): (98.8, 100.0, 100.0),
    ("multirc", "exact_match"): (65.7, 66.3, 67.1),
    ("multirc", "f1"): (88.7, 89.0, 89.4),
    ("record", "exact_match"): (92.7, 92.9, 93.2),
    ("record", "f1"): (93.4, 93.5, 93.9),
    ("rte", "accuracy"): (92.6, 93.5, 93.5),
    ("wic", "accuracy"): (76.2, 76.6, 77.4),
    ("wsc", "accuracy"): (95.8, 96.2, 96.2),
}
"""{(task, metric): (average, best, ensemble)} of five prompts: Lester et al., table 3."""

ENSEMBLE_SCORE = (90.5, 91.0, 91.3)
"""The last line of table 3: the SuperGLUE score, which is the mean over the tasks of each one's mean."""

LENGTHS = (1, 5, 20, 50, 100, 150)
"""Prompt lengths of Lester et al., table 4."""

# Trainable parameters, parameters in all, and the percentage as it is printed.
_TABLE_4 = """
small  512 76961664 0.00067  2560 76963712 0.00333  10420 76971572 0.01330
       25600 76986752 0.03325  51200 77012352 0.06648  76800 77037952 0.09969
base   768 247578624 0.00031  3840 247581696 0.00155  15360 247593216 0.00620
       38400 247616256 0.01551  76800 247654656 0.03101  115200 247693056 0.04651
large  1024 783151104 0.00013  5120 783155200 0.00065  20480 783170560 0.00262
       51200 783201280 0.00654  102400 783252480 0.01907  153600 783303680 0.01961
xl     2048 2849759232 0.00007  10240 2849767424 0.00036  40960 2849798144 0.00143
       102400 2849859584 0.00359  204800 2849961984 0.00718  307200 2850064384 0.01078
xxl    4096 11135336448 0.00004  20480 11135352832 0.00018  81920 11135414272 0.00074
       204800 11137380352 0.00184  409600 11135741952 0.00368  614400 11135946752 0.00552
"""


def _read_table_4() -> dict[tuple[str, int], tuple[int, int, str]]:
    words, wide = _TABLE_4.split(), 1 + 3 * len(LENGTHS)
    table = {}
    for start in range(0, len(words), wide):
        size, *numbers = words[start : start + wide]
        for number, length in enumerate(LENGTHS):
            trainable, total, percent = numbers[3 * number : 3 * number + 3]
            table[size, length] = int(trainable), int(total), percent
    return table


TABLE_4: Mapping[tuple[str, int], tuple[int, int, str]] = _read_table_4()
"""{(size, length): (trainable, total, percent of the total that is trainable)}: Lester et al., table 4."""

MISPRINTS: Mapping[tuple[str, int], str] = {
    ("small", 20): "printed 10,420 of 76,971,572, but 20 tokens of 512 are 10,240; the percentage is right",
    ("xl", 20): "printed 0.00143 %, rounded down",
    ("xl", 100): "printed 0.00718 %, rounded down",
    ("large", 100): "printed 0.01907 %, but 102,400 of 783,252,480 are 0.01307 %",
    ("xxl", 50): "printed 11,137,380,352 in all, but 204,800 and the model's 11,135,332,352 are 11,135,537,152",
}
"""Where table 4 contradicts itself."""
