"""The figures and tables of Lester, Al-Rfou and Constant (2021) as grids of runs, three seeds each.

    python launch/sweep.py --sweep=configs/sweeps/lester.py:figure1 --root=runs/lester
    python launch/sweep.py --sweep=configs/sweeps/lester.py:figure3a --root=runs/lester --only=size=small,base
    python launch/sweep.py --sweep=configs/sweeps/lester.py:table3 --root=runs/lester --plan=v5e-16

The argument is one of `figure1`, `figure3a` (prompt length), `figure3b` (initialisation), `figure3c` (pre-training
objective), `figure3d` (steps of LM adaptation, which it makes first), `table1` (SQuAD to MRQA), `table2` (QQP to MRPC
and back), `table3` (ensembles of five) and `methods` (Prefix-Tuning and P-tuning beside Prompt Tuning). They may share
a --root: a setting that occurs in two of them has a directory for each. None has been run at full size by this project.
"""

CONFIG = "configs/lester.py"
SIZES = ["small", "base", "large", "xl", "xxl"]
TASKS = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
SEEDS = [0, 1, 2]
ADAPTED = [10_000, 50_000]
"""Steps of LM adaptation in figure 3(d) besides 0 and 100,000, whose checkpoints are published."""


def get_sweep(argument: str = "figure1"):
    """The stages of one figure or table."""
    if argument not in SWEEPS:
        raise ValueError(f"the sweeps are {', '.join(SWEEPS)}, not {argument!r}")
    return SWEEPS[argument]


def _tuned(name, axes=None, **stage):
    """Prompt tuning of every size on every task."""
    axes = {**(axes or {}), "size": SIZES, "task": TASKS, "seed": SEEDS}
    return {"name": name, "config": CONFIG, "axes": axes, "set": {"method": "prompt_tuning"}, **stage}


def _shifted(name, tasks):
    """Prompt and model tuning of the largest model on tasks whose config scores others too."""
    methods = ["prompt_tuning", "model_tuning"]
    axes = {"method": methods, "task": tasks, "seed": SEEDS}
    return [{"name": name, "config": CONFIG, "axes": axes, "set": {"size": "xxl"}}]


_FIGURE_1 = [
    _tuned("figure1", {"method": ["prompt_tuning", "model_tuning"]}, set={}),
    {"name": "figure1", "config": CONFIG, "axes": {"method": ["prompt_design"], "size": SIZES, "task": TASKS}},
    {"name": "figure1", "config": CONFIG, "axes": {"method": ["model_tuning"], "size": SIZES, "task": ["superglue"],
                                                   "seed": SEEDS}},
]  # fmt: skip

_STEPS = [
    {"lm_steps": 0},
    *({"lm_steps": steps, "model.path": "{root}/adapt-{size}/model-{lm_steps}"} for steps in ADAPTED),
    {"lm_steps": 100_000},
]

SWEEPS = {
    "figure1": _FIGURE_1,
    "figure3a": [_tuned("figure3a", {"length": [1, 5, 20, 100, 150]})],
    "figure3b": [_tuned("figure3b", {"init": ["random", "sampled_vocab", "class_labels"]})],
    "figure3c": [_tuned("figure3c", {"objective": ["span_corruption", "span_corruption_sentinel", "lm_adaptation"]})],
    "figure3d": [
        {"name": "adapt", "config": "configs/lm_adaptation.py", "axes": {"size": SIZES}, "set": {"steps": ADAPTED[-1]}},
        _tuned("figure3d", cases=_STEPS),
    ],
    "table1": _shifted("table1", ["squad"]),
    "table2": _shifted("table2", ["qqp", "mrpc"]),
    "table3": [
        {"name": "table3", "config": CONFIG, "axes": {"task": TASKS},
         "set": {"method": "prompt_tuning", "size": "xxl", "train.num_prompts": 5}},
    ],
    "methods": [_tuned("methods", {"method": ["prompt_tuning", "prefix_tuning", "p_tuning"]}, set={})],
}  # fmt: skip
