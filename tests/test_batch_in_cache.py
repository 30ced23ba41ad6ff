"""On a CPU a batch that is large for its cache is read in parts, to the same end."""

import jax
import nano
import numpy as np
from nano import quick_compilation  # noqa: F401

from jaxprompt.patching import patch
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.training import step as steps
from jaxprompt.training.loss import LossConfig
from jaxprompt.training.optim import OptimConfig, make_optimizer, split_trainable
from jaxprompt.training.step import init_state, make_train_step

SLOTS = 4


def test_the_update_is_that_of_the_whole_batch(monkeypatch):
    model = patch(nano.language_model(), PromptTuning(length=SLOTS))
    batch = next(nano.feature_batches(slots=SLOTS))
    rows, length = batch.inputs.shape
    trainable, frozen = split_trainable(model.init_params(jax.random.key(0)), model.method.rules)
    optimizer = make_optimizer(OptimConfig("sgd", learning_rate=0.01), model.method.rules, trainable, 10)

    def outcome(cache_bytes):
        monkeypatch.setattr(steps, "_CACHE_BYTES", cache_bytes)
        state = init_state(trainable, optimizer, jax.random.key(1))
        step = make_train_step(model, optimizer, LossConfig("examples"), dropout=False)
        compiled = step.lower(state, frozen, batch).compile()
        state, metrics = compiled(state, frozen, batch)
        return state.trainable["prompt"]["embedding"], metrics, compiled.memory_analysis().temp_size_in_bytes

    inner = 4 * rows * length * model.config.d_ff
    (whole, metrics, held), (parts, parts_metrics, less) = outcome(inner), outcome(inner // rows)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(parts_metrics[name], value, rtol=1e-5, atol=1e-6)
    assert less < held


def test_parts_divide_the_rows_and_a_shared_prompt_is_read_once():
    model = patch(nano.language_model(), PromptTuning(length=SLOTS))

    def parts(rows, length, accumulate=1, prompts=1, of=model):
        batch = next(nano.feature_batches(slots=SLOTS)).replace(inputs=np.zeros((rows, length), np.int32))
        return steps._parts_in_cache(of, batch, accumulate, prompts)

    fits = steps._CACHE_BYTES // (4 * model.config.d_ff)  # tokens
    assert parts(8, fits // 8) == 1
    assert parts(8, fits // 2) == 4
    assert parts(8, fits // 2, accumulate=2) == 2
    assert parts(8, fits // 8, prompts=4) == 4
    assert parts(6, fits // 2) == 3
    assert parts(13, fits // 8) == 1, "one row a part would be too little"
