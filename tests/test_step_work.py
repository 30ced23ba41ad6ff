"""The work of a step at the real widths: what XLA counts, and what it holds. Programs are compiled, none is run."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxprompt.models.gpt2 import GPT2
from jaxprompt.models.gpt2_config import GPT2Config
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import abstract_params
from jaxprompt.models.t5 import T5
from jaxprompt.models.t5_config import T5Config
from jaxprompt.patching import patch
from jaxprompt.planning.flops import train_products
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.training import step as steps
from jaxprompt.training.loss import LossConfig
from jaxprompt.training.optim import OptimConfig, make_optimizer
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.types import Batch

P, B = 100, 8
T5_SMALL = T5Config(
    vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=2, num_decoder_layers=2, num_heads=6,
    feed_forward_activation="gelu_new", is_gated=True, tied_head=False, scale_decoder_outputs=False,
)  # fmt: skip
GPT2_SMALL = GPT2Config(vocab_size=50257, d_model=768, num_layers=2, num_heads=12, max_positions=1024)


def program(module, family, inputs, targets, dropout=True):
    """A compiled step of shapes alone, and the products it needs."""
    lm = LanguageModel(module, abstract_params(module), None, module.config, family, family)
    model = patch(lm, PromptTuning(P, init="random"))
    of = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    S = inputs + (targets - 1 if model.as_prefix else P)
    ids, answers = of(B, S), of(B, targets)
    weights = of(B, targets, dtype=jnp.float32)
    batch = Batch(ids, ids, answers, answers, weights, of(B), answers if model.as_prefix else None)
    trainable = {"prompt": {"embedding": of(P, lm.config.d_model, dtype=jnp.float32)}}
    optimizer = make_optimizer(OptimConfig(), model.method.rules, trainable)
    state = jax.eval_shape(lambda: init_state(jax.tree.map(lambda x: jnp.zeros(x.shape), trainable), optimizer, KEY))
    step = make_train_step(model, optimizer, LossConfig(), dropout=dropout)
    return step.lower(state, {"model": lm.params}, batch).compile(), train_products(model, B, S, targets)


KEY = jax.random.key(0)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_no_more_than_forward_and_activations_backward(family):
    """The products of the two passes, with nothing for weights, other positions than targets, or a second prompt."""
    module, inputs = (T5(T5_SMALL), 128) if family == "t5" else (GPT2(GPT2_SMALL), 64)
    compiled, products = program(module, family, inputs, 8)
    needed = products.forward + products.backward(weights_train=False)
    assert compiled.cost_analysis()["flops"] <= 1.05 * needed


def test_many_targets_never_hold_all_their_logits():
    targets, V = 256, GPT2_SMALL.vocab_size
    assert B * targets * V * 4 > 2 * steps._LOGITS_BYTES
    compiled, _ = program(GPT2(GPT2_SMALL, unroll=1), "gpt2", 8, targets, dropout=False)
    sizes = [int(size) for size in re.findall(rf"f32\[{B},(\d+),{V}\]", compiled.as_text())]
    assert sizes
    assert max(sizes) * B * V * 4 <= steps._LOGITS_BYTES
    assert not re.search(rf"f32\[{B * targets},{V}\]", compiled.as_text())
