"""The training loop runs ahead of the device."""

import dataclasses

import jax
from nano import quick_compilation  # noqa: F401
from tiny_runs import TRAIN, run_fit

from jaxprompt.training import loop
from jaxprompt.training.loop import Score
from jaxprompt.training.step import make_train_step


class Pending:
    """A step's metric that only the loop's own call for it may turn into a number."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        raise AssertionError("a metric was read between lines of metrics, which waits for the device")

    __array__ = __bool__ = __int__ = __format__ = __float__


def test_the_host_waits_for_the_device_only_to_log_or_to_save(tmp_path, monkeypatch):
    fetched = []

    def patient_step(*args, **options):
        step = make_train_step(*args, **options)

        def run(*inputs):
            state, metrics = step(*inputs)
            return state, {name: Pending(value) for name, value in metrics.items()}

        return run

    def fetch(rows):
        if not any(isinstance(leaf, Pending) for leaf in jax.tree.leaves(rows)):
            return get(rows)
        fetched.append(len(rows))
        return get([{name: pending.value for name, pending in row.items()} for row in rows])

    get, always = jax.device_get, lambda params: Score({"score": 0.5}, 0.5)
    monkeypatch.setattr(loop, "make_train_step", patient_step)
    monkeypatch.setattr(jax, "device_get", fetch)
    run_fit(tmp_path, train=dataclasses.replace(TRAIN, steps=12, log_every=6, checkpoint_every=12), evaluate=always)
    assert fetched == [4, 2, 2, 4], "evaluations after steps 4, 8 and 12 log, too"
