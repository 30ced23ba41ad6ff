"""The nano T5 that the package ships: 2.4 M weights pre-trained on the `mini` world's text, in two stages.

    python launch/train.py --config=configs/nano_t5.py:span --workdir=runs/nano-span
    python launch/train.py --config=configs/nano_t5.py:lm   --workdir=runs/nano-lm \
        --config.model.path=runs/nano-span/model

Span corruption (Raffel et al. 2020) from random weights, then the LM adaptation of Lester et al. (2021). The result is
`runs/nano-lm/model`, an ordinary Hugging Face directory. Its architecture and tokenizer are those of
`jaxprompt/assets/nano-t5`.
"""

from jaxprompt.experiment import Experiment

STAGES = {
    "span": {
        "model": {"path": "nano-t5", "from_scratch": True},
        "corpus": {"objective": "span_corruption"},
        "train": {"steps": 150},
    },
    "lm": {
        "model": {"path": "runs/nano-span/model"},
        # Split between sentences, so that what is continued is an answer or a gist as often as can be.
        "corpus": {"objective": "prefix_lm", "max_targets": 16, "split_after": (".", "?", "!", ":")},
        "train": {"steps": 1300},
    },
}


def get_config(stage: str = "lm"):
    """The experiment of one stage."""
    if stage not in STAGES:
        raise ValueError(f"configs/nano_t5.py knows the stages {sorted(STAGES)}, not {stage!r}")
    shared = {
        "prompt": {"method": "model_tuning"},
        "train": {"batch_size": 32, "dropout": False, "normalization": "tokens", "z_loss": 0.0, "log_every": 50,
                  "checkpoint_every": 150},
        "optim": {"name": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 50, "clip_norm": 1.0,
                  "weight_decay": 0.01, "b2": 0.98},
        "eval": {"every": 150, "batch_size": 256},
    }  # fmt: skip
    sections = {name: shared.get(name, {}) | STAGES[stage].get(name, {}) for name in shared.keys() | STAGES[stage]}
    return Experiment().to_config(**sections)
