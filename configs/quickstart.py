"""Prompt Tuning of the embedded nano T5 on a mini task: the main job, offline, on a laptop.

    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

The argument chooses the task: `configs/quickstart.py:entailment`.
"""

from jaxprompt.experiment import Experiment


def get_config(task: str = "sentiment"):
    """The experiment on one of the `mini` classification tasks."""
    return Experiment().to_config(
        model={"path": "nano-t5"},
        prompt={"length": 20, "init": "class_labels"},
        task={"source": f"mini:{task}", "test_split": "test"},
        train={"steps": 300, "batch_size": 32, "log_every": 10, "checkpoint_every": 100, "dropout": False},
        optim={"name": "adafactor", "learning_rate": 0.3, "weight_decay": 1e-5},
        eval={"every": 50, "batch_size": 128, "baselines": True},
    )
