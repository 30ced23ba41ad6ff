"""Lester et al. (2021) in miniature: a family of nano T5s, pre-trained, LM-adapted and tuned on the `mini` world.

python launch/train.py --config=configs/miniature.py:size=2m,stage=span --workdir=runs/miniature/span/2m
python launch/train.py --config=configs/miniature.py:size=2m,stage=lm --workdir=runs/miniature/lm/2m
"""

from jaxprompt.experiment import Experiment

RATES = {"70k": 5e-3, "300k": 3e-3, "800k": 2e-3, "2m": 1e-3, "6m": 7e-4}
"""The peak learning rate of each size in pre-training: the wider, the slower."""
ROOT = "runs/miniature"


def get_config(argument: str = ""):
    """The experiment; the argument is `size=…,stage=…,lm_steps=…`."""
    chosen = {"size": "2m", "stage": "lm", "lm_steps": "1000"} | dict(
        part.partition("=")[::2] for part in argument.split(",") if part
    )
    size, stage, steps = chosen["size"], chosen["stage"], int(chosen["lm_steps"])
    models = {
        "span": {"path": f"configs/miniature/{size}", "tokenizer": "nano-t5", "from_scratch": True},
        "lm": {"path": f"{ROOT}/span/{size}/model"},
    }
    corpora = {
        "span": {"objective": "span_corruption"},
        "lm": {"objective": "prefix_lm", "max_targets": 16, "split_after": (".", "?", "!", ":")},
    }
    return Experiment().to_config(
        model=models[stage],
        prompt={"method": "model_tuning"},
        corpus={**corpora[stage], "mixture": "miniature", "documents_per_row": 6,
                "validation_documents": 512},
        train={"steps": 400 if stage == "span" else steps, "batch_size": 32, "dropout": False,
               "normalization": "tokens", "z_loss": 0.0, "log_every": 50, "checkpoint_every": 200},
        optim={"name": "adamw", "learning_rate": RATES[size], "schedule": "cosine", "warmup_steps": 50,
               "clip_norm": 1.0, "weight_decay": 0.01, "b2": 0.98},
        eval={"every": 200, "batch_size": 256},
    )  # fmt: skip
