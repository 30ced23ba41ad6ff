"""Layers apart: the same weights in the same memory, and the same results."""

import dataclasses

import jax
import numpy as np
import pytest
from causal_batches import causal_batch, random_examples
from tiny_batches import EXACT, random_batch
from tiny_families import families

import jaxprompt as jp
from jaxprompt import trees
from jaxprompt.models.layered import Apart, apart, layer_of

P = 4


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def case(request, tiny_lm):
    """A patched model and a batch of its family."""
    lm = families(tiny_lm)[request.param]
    model = jp.patch(lm, jp.PromptTuning(P, init="random"))
    if request.param == "t5":
        return model, random_batch(lm.config.vocab_size, slots=P)
    return model, causal_batch([[example] for example in random_examples(lm.config.vocab_size)])


def test_each_layer_lies_where_it_did():
    stacked = jax.numpy.arange(3 * 64.0).reshape(3, 64)
    split = apart({"encoder": {"block": {"wi": stacked}, "norm": stacked}})
    assert split["encoder"]["norm"] is stacked
    layers = jax.tree.leaves(split["encoder"]["block"]["wi"])
    starts = [layer.unsafe_buffer_pointer() - stacked.unsafe_buffer_pointer() for layer in layers]
    assert starts == [0, 256, 512]
    np.testing.assert_array_equal(layer_of(1, split["encoder"]["block"])["wi"], stacked[1])


def test_deep_stacks_and_several_devices_stay_as_they_are():
    deep = jax.numpy.zeros((48, 4))
    assert apart({"block": {"wi": deep}})["block"]["wi"] is deep
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(np.zeros((2, 4)), jax.NamedSharding(mesh, jax.P()))
    assert apart({"block": {"wi": spread}})["block"]["wi"] is spread


def test_results_are_the_same(case):
    """Also of a module that would loop over its layers."""
    model, batch = case
    params = model.init_params(jax.random.key(0))
    split = params | {"model": apart(params["model"])}
    assert any(isinstance(leaf, Apart) for leaf in trees.flatten(split["model"]).values())

    @jax.jit
    def loss(prompt, params):
        logits = model.apply(params | {"prompt": prompt}, batch)
        return logits.sum(), logits

    found, expected = (jax.value_and_grad(loss, has_aux=True)(params["prompt"], which) for which in (split, params))
    np.testing.assert_allclose(found[0][1], expected[0][1], **EXACT)
    scale = np.abs(expected[1]["embedding"]).max()
    np.testing.assert_allclose(found[1]["embedding"] / scale, expected[1]["embedding"] / scale, **EXACT)


def test_generation_reads_them_apart_and_says_the_same(case):
    model, batch = case
    params = model.init_params(jax.random.key(0))
    assert model.for_programs(params)["model"] is model.lm.layers_apart
    other = dataclasses.replace(model.lm, params=jax.tree.map(lambda leaf: leaf * 1, model.lm.params))
    copied = params | {"model": other.params}
    assert model.for_programs(copied) is copied, "weights of one's own are read as they are"
    found = jp.generate(model, params, batch, max_new_tokens=3)
    np.testing.assert_array_equal(found, jp.generate(model, copied, batch, max_new_tokens=3))


def test_integer_weights_generate_layer_by_layer(tiny_directory):
    lm = jp.load_model(tiny_directory, quantize="int8", tokenizer=False)
    model = jp.patch(lm, jp.PromptTuning(P, init="random"))
    params, batch = model.init_params(jax.random.key(0)), random_batch(lm.config.vocab_size, slots=P)
    stacked = params | {"model": dict(lm.params)}
    found = jp.generate(model, params, batch, max_new_tokens=2)
    np.testing.assert_array_equal(found, jp.generate(model, stacked, batch, max_new_tokens=2))
