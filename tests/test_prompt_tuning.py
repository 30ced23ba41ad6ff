import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import EXACT, LENGTH, PROMPT, ROWS, call, random_batch, random_kv, random_tokens

import jaxprompt as jp
from jaxprompt import trees
from jaxprompt.types import Injection


def test_one_array_in_fp32_is_all_there_is(tiny_lm):
    method = jp.PromptTuning(length=7, init="random")
    params = method.init_params(jax.random.key(0), tiny_lm)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in trees.flatten(params).items()} == {
        "embedding": ((7, tiny_lm.config.d_model), jnp.float32)
    }
    assert method.num_slots == 7
    for injection in (method.injection(params, tiny_lm), method.export(params, tiny_lm)):
        np.testing.assert_array_equal(injection.tokens, params["embedding"])
        assert injection.kv == {}


def test_defaults_are_the_papers():
    method = jp.PromptTuning()
    assert (method.length, method.scale, method.vocab_limit) == (100, 0.5, 5000)


def test_a_parameter_of_the_wrong_shape_is_refused(tiny_lm):
    method = jp.PromptTuning(length=7)
    with pytest.raises(Exception, match="shape"):
        method.injection({"embedding": jnp.zeros((6, tiny_lm.config.d_model))}, tiny_lm)


@pytest.mark.parametrize("length", [0, -1])
def test_a_prompt_has_a_length(length):
    with pytest.raises(ValueError, match=f"length is {length}"):
        jp.PromptTuning(length=length)


def test_a_string_is_not_a_list_of_labels():
    with pytest.raises(TypeError, match=r"labels.*\['True'\]"):
        jp.PromptTuning(labels="True")


def test_prompts_train_and_models_are_frozen():
    paths = ("prompt/embedding", "model/shared/embedding", "model/lm_head/kernel")
    assert list(trees.match_rules(jp.PromptTuning.rules, paths).values()) == ["train", "freeze", "freeze"]
    assert list(trees.match_rules(jp.ModelTuning.rules, paths[1:]).values()) == ["train", "train"]


def test_model_tuning_injects_nothing(tiny_lm):
    method = jp.ModelTuning()
    assert method.num_slots == 0
    assert method.init_params(jax.random.key(0), tiny_lm) == {}
    for injection in (method.injection({}, tiny_lm), method.export({}, tiny_lm)):
        assert jax.tree.leaves(injection) == []


# What virtual tokens are to the model


@pytest.mark.parametrize("at", [0, 3], ids=["in front", "inside"])
def test_a_prompt_of_real_embeddings_is_those_tokens(tiny_lm, at):
    vocab_size, ids = tiny_lm.config.vocab_size, np.array([17, 1000, 17, 4])
    text = random_batch(vocab_size, slots=0)
    segments = np.ones((ROWS, PROMPT + LENGTH), np.int32)

    def logits(new, tokens):
        inputs = np.insert(text.inputs, [at] * PROMPT, new, axis=1)
        batch = text.replace(inputs=inputs, input_segments=segments)
        return call(tiny_lm.module, tiny_lm.params, batch, Injection(tokens))

    slots, table = vocab_size + np.arange(PROMPT), tiny_lm.embedding_table
    spelled = logits(ids, table[:PROMPT])
    np.testing.assert_allclose(logits(slots, table[ids]), spelled, **EXACT)
    assert np.abs(logits(slots, table[ids[::-1]]) - spelled).max() > 0.01


def test_a_prompt_a_row_is_each_row_alone(tiny_lm):
    batch = random_batch(tiny_lm.config.vocab_size)
    prompts = Injection(random_tokens(tiny_lm.config, ROWS), random_kv(tiny_lm.config, ROWS, length=2))
    together = call(tiny_lm.module, tiny_lm.params, batch, prompts)
    for row in range(ROWS):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch)
        own = jax.tree.map(lambda leaf, row=row: leaf[row], prompts)
        np.testing.assert_allclose(call(tiny_lm.module, tiny_lm.params, alone, own)[0], together[row], **EXACT)
    swapped = jax.tree.map(lambda leaf: leaf[::-1], prompts)
    assert np.abs(call(tiny_lm.module, tiny_lm.params, batch, swapped) - together).max() > 0.1


def test_a_slot_beyond_the_prompt_is_not_taken_for_another(tiny_lm):
    batch = random_batch(tiny_lm.config.vocab_size)
    inputs = np.array(batch.inputs)
    inputs[1, 0] = tiny_lm.config.vocab_size + PROMPT
    injection = Injection(random_tokens(tiny_lm.config))
    logits = call(tiny_lm.module, tiny_lm.params, batch.replace(inputs=inputs), injection)
    assert np.isnan(logits).all((1, 2)).tolist() == [False, True, False]
    assert np.isfinite(logits[::2]).all()


def test_prompts_are_vmapped_over_one_frozen_model(tiny_lm):
    batch = random_batch(tiny_lm.config.vocab_size)
    tokens = random_tokens(tiny_lm.config, 2)
    run = lambda tokens: tiny_lm.module.apply({"params": tiny_lm.params}, batch, Injection(tokens))  # noqa: E731
    both = jax.jit(jax.vmap(run))(tokens)
    for prompt in range(2):
        alone = call(tiny_lm.module, tiny_lm.params, batch, Injection(tokens[prompt]))
        np.testing.assert_allclose(both[prompt], alone, **EXACT)
