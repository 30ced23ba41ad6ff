import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import EXACT

import jaxprompt as jp
from jaxprompt.trees import flatten

P = 5
TEXTS = ["review: a fine film, told with care", "the end"]


@pytest.fixture(scope="module")
def model(tiny_lm):
    return jp.patch(tiny_lm, jp.PromptTuning(length=P, init="class_labels", labels=["True", "False"]))


def spell(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


# Texts


def test_slots_come_first_and_the_end_of_text_last(model, tokenizer):
    batch, V = model.encode_text(TEXTS, targets=["good", "not_entailment"]), model.config.vocab_size
    for row, text in enumerate(TEXTS):
        expected = [*range(V, V + P), *spell(tokenizer, text), tokenizer.eos_token_id]
        real = batch.input_segments[row] > 0
        assert batch.inputs[row][real].tolist() == expected
        assert real.tolist() == [True] * len(expected) + [False] * (len(real) - len(expected))
        assert set(batch.inputs[row][~real].tolist()) <= {model.config.pad_token_id}
        target = [*spell(tokenizer, ["good", "not_entailment"][row]), tokenizer.eos_token_id]
        assert batch.targets[row][batch.target_segments[row] > 0].tolist() == target
    np.testing.assert_array_equal(batch.target_weights, batch.target_segments > 0)
    assert batch.inputs.shape[1] == max((batch.input_segments > 0).sum(1))
    assert batch.index.tolist() == [0, 1]


def test_without_targets_nothing_is_to_be_learnt(model, tokenizer):
    batch = model.encode_text(TEXTS)
    assert batch.targets.tolist() == [[tokenizer.eos_token_id]] * 2
    assert batch.target_weights.tolist() == [[0.0]] * 2


def test_a_long_text_keeps_the_prompt_and_the_end_of_text(model, tokenizer):
    text = "the film was good and " * 200
    batch, V = model.encode_text([text], max_length=9), model.config.vocab_size
    assert batch.inputs[0].tolist() == [*range(V, V + P), *spell(tokenizer, text)[:8], tokenizer.eos_token_id]
    assert model.encode_text([text]).inputs.shape == (1, P + 512)


def test_a_template_places_slots_and_fields(tiny_lm, tokenizer):
    template = "{soft:2} question: {question} {soft:3} passage: {passage}"
    model = jp.patch(tiny_lm, jp.PromptTuning(length=P), template)
    row = {"question": "is it good?", "passage": "it is."}
    batch, V = model.encode_text([row]), tiny_lm.config.vocab_size
    one, two = spell(tokenizer, "question: is it good?"), spell(tokenizer, "passage: it is.")
    expected = [V, V + 1, *one, V + 2, V + 3, V + 4, *two, tokenizer.eos_token_id]
    assert batch.inputs.tolist() == [expected]
    with pytest.raises(ValueError, match=r"needs the field 'passage'.*\['question'\]"):
        model.encode_text([{"question": "is it?"}])


def test_a_template_without_slots_gets_them_in_front(tiny_lm):
    model = jp.patch(tiny_lm, jp.PromptTuning(length=P), "review: {text}")
    spelled = jp.patch(tiny_lm, jp.PromptTuning(length=P), "{soft:5} review: {text}")
    assert model.template == spelled.template
    bare = jp.patch(tiny_lm, jp.ModelTuning())
    assert bare.encode_text(TEXTS).inputs.max() < tiny_lm.config.vocab_size


def test_a_template_must_hold_as_many_slots_as_the_method_gives(tiny_lm):
    with pytest.raises(ValueError, match="holds 4 virtual tokens, the method gives 5"):
        jp.patch(tiny_lm, jp.PromptTuning(length=P), "{soft:4} {input}")
    with pytest.raises(ValueError, match="holds 4 virtual tokens, the method gives 0"):
        jp.patch(tiny_lm, jp.ModelTuning(), "{soft:4} {input}")
    with pytest.raises(ValueError, match="cannot read"):
        jp.patch(tiny_lm, jp.PromptTuning(length=P), "{soft:five} {input}")


def test_texts_that_cannot_be_encoded(model, tiny_directory):
    with pytest.raises(ValueError, match="2 texts but 1 targets"):
        model.encode_text(TEXTS, targets=["good"])
    with pytest.raises(ValueError, match="no texts"):
        model.encode_text([])
    # A string is a sequence of strings too: each letter would be a row.
    with pytest.raises(TypeError, match="single string"):
        model.encode_text("the film")
    with pytest.raises(TypeError, match="single string"):
        model.encode_text(["a", "b"], targets="ab")
    mute = jp.patch(jp.load_model(tiny_directory, tokenizer=False), jp.PromptTuning(length=P, init="random"))
    with pytest.raises(ValueError, match="without a tokenizer"):
        mute.encode_text(TEXTS)


# Parameters and logits


def test_two_trees_and_the_prompt_in_fp32(tiny_directory, tokenizer):
    for dtype in (jnp.float32, jnp.bfloat16):
        lm = jp.load_model(tiny_directory, tokenizer=False, dtype=dtype)
        params = jp.patch(lm, jp.PromptTuning(length=P, init="random")).init_params(jax.random.key(0))
        assert params.keys() == {"model", "prompt"}
        assert params["model"] is lm.params
        assert {leaf.dtype for leaf in jax.tree.leaves(params["model"])} == {jnp.dtype(dtype)}
        assert {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(params["prompt"]).items()} == {
            "embedding": ((P, lm.config.d_model), jnp.float32)
        }


def test_the_papers_example(model):
    params = model.init_params(jax.random.key(0))
    batch = model.encode_text(TEXTS, targets=["True", "False"])
    apply = jax.jit(model.apply)
    logits = apply(params, batch)
    assert logits.shape == (*batch.targets.shape, model.config.vocab_size)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    # The prompt is read: another one, other logits.
    other = params | {"prompt": jax.tree.map(lambda leaf: leaf + 1, params["prompt"])}
    assert np.abs(apply(other, batch) - logits).max() > 0.01


def test_an_export_gives_the_same_logits(model, tiny_lm):
    params = model.init_params(jax.random.key(1))
    batch = model.encode_text(TEXTS, targets=["True", "False"])
    exported = jp.patch(tiny_lm, jp.ExportedPrompt(model.method.export(params["prompt"], tiny_lm)))
    assert exported.template == model.template
    its_params = exported.init_params(jax.random.key(9))
    assert flatten(its_params["prompt"]).keys() == {"tokens"}
    np.testing.assert_array_equal(jax.jit(exported.apply)(its_params, batch), jax.jit(model.apply)(params, batch))


def test_an_export_of_keys_and_values_keeps_them(tiny_lm):
    kv = {"cross": (np.ones((2, 3, 3, 6), np.float32), np.zeros((2, 3, 3, 6), np.float32))}
    method = jp.ExportedPrompt(jp.Injection(kv=kv))
    model = jp.patch(tiny_lm, method)
    assert method.num_slots == 0
    params = model.init_params(jax.random.key(0))
    assert flatten(params["prompt"]).keys() == {"kv/cross"}
    injection = model.injection(params)
    assert injection.tokens is None
    np.testing.assert_array_equal(injection.kv["cross"][0], kv["cross"][0])


def test_reading_once_and_step_by_step_agree(model):
    params = model.init_params(jax.random.key(0))
    batch = model.encode_text(TEXTS, targets=["True", "True"])
    whole = jax.jit(model.apply)(params, batch)
    logits, cache = jax.jit(model.prefill, static_argnums=2)(params, batch, 2)
    np.testing.assert_allclose(logits, whole[:, 0], **EXACT)
    logits, _ = jax.jit(model.decode_step)(params, batch.targets[:, 0], cache)
    np.testing.assert_allclose(logits, whole[:, 1], **EXACT)


def test_the_prompts_gradient_is_fp32_under_a_bf16_model(tiny_directory, model):
    lm = jp.load_model(tiny_directory, tokenizer=False, dtype=jnp.bfloat16)
    patched, batch = jp.patch(lm, model.method), model.encode_text(TEXTS)
    loss = lambda prompt: patched.apply({"model": lm.params, "prompt": prompt}, batch).sum()  # noqa: E731
    prompt = model.init_params(jax.random.key(0))["prompt"]
    assert jax.eval_shape(jax.grad(loss), prompt)["embedding"].dtype == jnp.float32
    assert jax.eval_shape(loss, prompt).dtype == jnp.float32
