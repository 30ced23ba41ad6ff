"""Lester et al. (2021) in miniature: a family of nano T5s, pre-trained, LM-adapted and tuned on the `mini` world.

    python launch/sweep.py --sweep=configs/sweeps/miniature.py --root=runs/miniature
    python launch/figures.py --runs=runs/miniature --output=docs/miniature

or `make scaling` for both. One run of it:

    python launch/train.py --config=configs/miniature.py:size=300k,stage=span --workdir=runs/miniature/span-300k
    python launch/train.py --config=configs/miniature.py:size=300k,stage=lm --workdir=runs/miniature/lm-300k-1000
    python launch/train.py --config=configs/miniature.py:size=300k,task=sentiment --workdir=runs/one

The arguments are `size` (weights of the model), `stage` (`span` pre-trains by span corruption, `lm` adapts to the
prefix-LM objective, `tune` learns a task), and for the last `task`, `method`, `length`, `init`. All 200 runs took
three hours of run time on two CPU cores that other work shared, half of it for pre-training; README.md has what came of
them.
"""

from jaxprompt.experiment import Experiment

RATES = {"70k": 5e-3, "300k": 3e-3, "800k": 2e-3, "2m": 1e-3}
"""Sizes, and their peak learning rates in pre-training: the wider, the slower."""
TASKS = (
    "sentiment",
    "topic",
    "facts",
    "entailment",
    *(f"sentiment/{thing}" for thing in ("film", "book", "inn", "show")),
)
_INPUTS = {"facts": "{relation} {subject}", "entailment": "hypothesis: {hypothesis} premise: {premise}"}
"""Of the tasks that are not about reviews."""
_CHOICES = {
    "size": tuple(RATES),
    "stage": ("span", "lm", "tune"),
    "task": TASKS,
    "method": ("prompt_tuning", "prefix_tuning", "p_tuning", "model_tuning", "prompt_design"),
    "init": ("", "random", "sampled_vocab", "class_labels"),
}
_DEFAULTS = {"size": "300k", "stage": "tune", "task": "sentiment", "method": "prompt_tuning", "init": "",
             "length": "20", "lm_steps": "1000"}  # fmt: skip


def get_config(argument: str = ""):
    """The experiment; the argument is `size=…,stage=…,task=…,method=…,length=…,init=…,lm_steps=…`."""
    chosen = _DEFAULTS | dict(part.partition("=")[::2] for part in argument.split(",") if part)
    if extra := chosen.keys() - _DEFAULTS.keys():
        raise ValueError(f"configs/miniature.py takes {', '.join(_DEFAULTS)}, not {sorted(extra)}")
    for name, known in _CHOICES.items():
        if chosen[name] not in known:
            raise ValueError(f"configs/miniature.py knows {name}={'|'.join(known)}, not {chosen[name]!r}")
    sections = _tuned(**chosen) if chosen["stage"] == "tune" else _pretrained(**chosen)
    return Experiment().to_config(**sections)


def _pretrained(size, stage, lm_steps, **_):
    spans = stage == "span"
    objective = {"objective": "span_corruption"}
    if not spans:
        # Split between sentences, so that what is continued is an answer or a gist as often as can be.
        objective = {"objective": "prefix_lm", "max_targets": 16, "split_after": (".", "?", "!", ":")}
    fresh = {"path": f"configs/miniature/{size}", "tokenizer": "nano-t5", "from_scratch": True}
    return {
        "model": fresh if spans else {"path": f"runs/miniature/span-{size}/model"},
        "prompt": {"method": "model_tuning"},
        "corpus": {**objective, "mixture": "miniature", "documents_per_row": 6, "validation_documents": 512},
        "train": {"steps": 400 if spans else int(lm_steps), "batch_size": 32, "dropout": False,
                  "normalization": "tokens", "z_loss": 0.0, "log_every": 50, "checkpoint_every": 200},
        "optim": {"name": "adamw", "learning_rate": RATES[size], "schedule": "cosine", "warmup_steps": 50,
                  "clip_norm": 1.0, "weight_decay": 0.01, "b2": 0.98},
        "eval": {"every": 200, "batch_size": 256},
    }  # fmt: skip


def _tuned(size, task, method, length, init, lm_steps, **_):
    prompt, source = {"method": method}, {"source": f"mini:{task}", "test_split": "test"}
    if method in ("prompt_tuning", "prefix_tuning", "p_tuning"):
        prompt["length"] = int(length)
    if method == "prompt_tuning":
        prompt["init"] = init or "class_labels"
    if task == "facts":  # as text to text, and not as a word out of a list
        prompt["template"], source["metrics"] = _INPUTS[task], ("accuracy",)
    if method == "p_tuning":  # whose template says where the answer belongs
        before = (prompt["length"] + 1) // 2
        behind = prompt["length"] - before
        slots = f" {{soft:{behind}}}" if behind else ""
        prompt["template"] = f"{{soft:{before}}} {_INPUTS.get(task, 'review: {review}')}{slots} {{target}}"
    optim = {"name": "adafactor", "learning_rate": 0.3, "weight_decay": 1e-5}
    if method != "prompt_tuning":
        optim = {"name": "adamw", "learning_rate": 2e-2 if method == "p_tuning" else 1e-3, "clip_norm": 1.0}
    return {
        "model": {"path": f"runs/miniature/lm-{size}-{lm_steps}/model"},
        "prompt": prompt,
        "task": source,
        "train": {"steps": 400, "batch_size": 16, "dropout": False, "log_every": 50, "checkpoint_every": 200},
        "optim": optim,
        "eval": {"every": 50, "batch_size": 128},
    }
