"""Every experiment of Lester et al. (2021) in miniature, on nano T5s of four sizes and the `mini` world's tasks.

    python launch/sweep.py --sweep=configs/sweeps/miniature.py --root=runs/miniature

The argument is one stage or several, in this order: `family` (pre-trains and LM-adapts the models, without which no
other stage can start), `figure1`, `figure3a` to `figure3d`, `table2` (from one kind of reviews to the others), `table3`
(ensembles of five) and `methods`; without one, all. `--only=size=70k,300k` takes some of the sizes.
"""

CONFIG = "configs/miniature.py"
SIZES = ["70k", "300k", "800k", "2m"]
TASKS = ["sentiment", "topic", "facts", "entailment"]
SEEDS = [0, 1, 2]
ADAPTED = ["100", "300", "1000"]
"""Steps of LM adaptation; the last is that of all other stages."""
_FINAL = f"{{root}}/lm-{{size}}-{ADAPTED[-1]}/model"
_SPANS = "{root}/span-{size}/model"


def get_sweep(argument: str = ""):
    """The stages."""
    wanted = argument.split(",") if argument else list(SWEEPS)
    if unknown := set(wanted) - SWEEPS.keys():
        raise ValueError(f"the sweeps are {', '.join(SWEEPS)}, not {sorted(unknown)}")
    # What the models are made by is part of every sweep, so that a path to one is known; finished runs are skipped.
    return [stage for name in dict.fromkeys(["family", *wanted]) for stage in SWEEPS[name]]


def _tuned(name, method, axes, path=_FINAL, **settings):
    """Runs on adapted models, unless `path` names others; figures are told how those were pre-trained."""
    labels = {"objective": "lm_adaptation", "lm_steps": int(ADAPTED[-1])}
    settings = {"method": method, "model.path": path, **labels, **settings}
    return {"name": name, "config": CONFIG, "axes": axes, "set": settings, "labels": list(labels)}


def _ablation(name, axes=None, **settings):
    """Prompt tuning on one task at every size; the default setting is one of figure 1's runs, and is not made again."""
    axes = {**(axes or {}), "size": SIZES, "seed": SEEDS}
    return _tuned(name, "prompt_tuning", axes, **{"task": "sentiment", **settings})


_ONE_SIZE = {"size": SIZES[-1], "path": f"{{root}}/lm-{SIZES[-1]}-{ADAPTED[-1]}/model"}
_OTHERS = {
    f"sentiment/{thing}": tuple(
        f"mini:sentiment/{other}" for other in ("film", "book", "inn", "show") if other != thing
    )
    for thing in ("film", "inn")
}

SWEEPS = {
    "family": [
        {"name": "span", "config": CONFIG, "axes": {"size": SIZES}, "set": {"stage": "span"}},
        {"name": "lm", "config": CONFIG, "axes": {"size": SIZES, "lm_steps": ADAPTED},
         "set": {"stage": "lm", "model.path": _SPANS}},
    ],
    "figure1": [
        *(_tuned(method, method, {"size": SIZES, "task": TASKS, "seed": SEEDS})
          for method in ("prompt_tuning", "model_tuning")),
        # Figures take the better of both rates; the prompts' one is the paper's.
        _tuned("slower_model_tuning", "model_tuning", {"size": SIZES, "task": TASKS, "seed": SEEDS},
               **{"optim.learning_rate": 3e-4}),
        _tuned("prompt_design", "prompt_design", {"size": SIZES, "task": TASKS}),
    ],
    "figure3a": [_ablation("length", {"length": [1, 5, 50]})],
    "figure3b": [_ablation("init", {"init": ["random", "sampled_vocab"]})],
    "figure3c": [
        _ablation("spans", path=_SPANS, objective="span_corruption", lm_steps=0),
        _ablation("spans-sentinel", path=_SPANS, objective="span_corruption_sentinel", lm_steps=0,
                  **{"task.target_sentinel": True}),
    ],
    "figure3d": [
        _ablation(f"adapted{steps}", path=f"{{root}}/lm-{{size}}-{steps}/model", lm_steps=int(steps))
        for steps in ADAPTED[:-1]
    ],
    "table2": [
        _tuned(f"shift-{method}-from-{task.rpartition('/')[2]}", method, {"seed": SEEDS}, task=task, **_ONE_SIZE,
               **{"eval.transfer": others})
        for method in ("prompt_tuning", "model_tuning") for task, others in _OTHERS.items()
    ],
    "table3": [_tuned("ensemble", "prompt_tuning", {"task": TASKS}, **_ONE_SIZE, **{"train.num_prompts": 5})],
    "methods": [
        _tuned(method, method, {"size": SIZES, "seed": SEEDS}, task="sentiment")
        for method in ("prefix_tuning", "p_tuning")
    ],
}  # fmt: skip
