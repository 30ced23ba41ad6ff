"""Short runs of the training loop on a tiny T5, whose score is a number read off the prompt."""

import json

import nano
import numpy as np

from jaxprompt.experiment import TrainConfig
from jaxprompt.patching import patch
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.training.loop import Score, fit
from jaxprompt.training.optim import preset

SLOTS = 4
TRAIN = TrainConfig(steps=12, batch_size=4, log_every=3, checkpoint_every=5)
OPTIM = preset("modern", warmup_steps=2)  # with averages and a schedule, so that there is state to lose


def tiny():
    return patch(nano.language_model(), PromptTuning(length=SLOTS))


def run_fit(workdir, *, batches=None, evaluate=None, after_export=None, train=TRAIN, optim=OPTIM, **options):
    """A run whose score is a number read off the prompt, and whose export is the prompt in a file."""

    def score(params):
        value = -abs(1.27 - float(np.sqrt(np.mean(np.square(params["prompt"]["embedding"])))))
        return Score({"closeness": value}, value)

    def export(params, best):
        np.save(workdir / "best.npy", np.asarray(params["prompt"]["embedding"]))
        (workdir / "best.json").write_text(json.dumps(best))
        if after_export:
            after_export(best)

    batches = batches or nano.feature_batches(slots=SLOTS)
    try:
        return fit(
            tiny(), batches, train=train, optim=optim, workdir=workdir, seed=3, eval_every=4,
            evaluate=evaluate or score, export=export, progress=False, **options,
        )  # fmt: skip
    finally:
        batches.close()
