"""What a row of a GPT-2 may hold without its examples noticing: padding, neighbours, a prompt read ahead, a cache."""

import dataclasses
import functools

import gpt2_files
import gpt2_parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal_batches import causal_batch, contexts_of, random_examples
from nano import quick_compilation  # noqa: F401
from tiny_batches import EXACT, call, logits_and_gradient, random_tokens, relative_difference

import jaxprompt as jp
from jaxprompt.models.layers import within_segments
from jaxprompt.types import Injection

GRADIENT = 1e-5  # relative difference in norm
SLOTS = 4
KINDS = ("none", "tokens", "prefix", "infix", "a token prompt a row", "a prefix a row", "prompt read ahead")


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    lm = jp.load_model(gpt2_files.write(tmp_path_factory.mktemp("gpt2"), gpt2_parity.WIDE), tokenizer=False)
    return dataclasses.replace(lm, module=lm.module.clone(unroll=1))  # compiles in half the time


@pytest.fixture(scope="module")
def examples(lm):
    return random_examples(lm.config.vocab_size)


def random_prefix(config, *rows):
    """Keys and values, [*rows, L, P, H, D] each."""
    shape = (*rows, config.num_layers, SLOTS, config.num_heads, config.d_kv)
    rng = np.random.default_rng(5)
    return rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def slots_of(lm, kind):
    """The ids that the prompt puts in front of every example."""
    return lm.config.vocab_size + np.arange(SLOTS) if "token" in kind else ()


def injection_of(lm, kind, rows):
    """A prompt of the kind, for so many rows."""
    config = lm.config
    if kind == "none":
        return Injection()
    if kind == "prompt read ahead":
        return call(lm.module, lm.params, random_tokens(config), method="prompt_prefix")
    leading = (rows,) if "a row" in kind else ()
    if "token" in kind:
        return Injection(random_tokens(config, *leading))
    return Injection(kv={"decoder": random_prefix(config, *leading)}, offset=SLOTS, infix=kind == "infix")


def row_of(injection, kind, row):
    """One row's prompt, with the batch axis gone."""
    return jax.tree.map(lambda array: array[row], injection) if "a row" in kind else injection


@pytest.fixture(scope="module")
def alone(lm, examples):
    """A function from a kind of prompt to the logits of every example, each alone in a batch without padding."""

    @functools.cache
    def of(kind):
        injection = injection_of(lm, kind, len(examples))
        batches = [causal_batch([[example]], slots=slots_of(lm, kind)) for example in examples]
        return [
            np.asarray(call(lm.module, lm.params, batch, row_of(injection, kind, row)))[0]
            for row, batch in enumerate(batches)
        ]

    return of


def assert_rows_equal(logits, expected):
    for row, each in zip(logits, expected, strict=True):
        np.testing.assert_allclose(row[: len(each)], each, **EXACT)


# Padding and packing


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(lm, examples, alone, kind, left):
    batch = causal_batch([[example] for example in examples], slots=slots_of(lm, kind), left=left, length=20)
    assert (batch.input_segments == 0).any(axis=1).all(), "every row is to be padded"
    logits = call(lm.module, lm.params, batch, injection_of(lm, kind, len(examples)))
    assert_rows_equal(logits, alone(kind))


@pytest.mark.parametrize("kind", ["none", "tokens", "prefix", "infix", "prompt read ahead"])
def test_packed_examples_are_as_if_alone(lm, examples, alone, kind):
    first, second, third = examples
    batch = causal_batch([[second, first, third], [third]], slots=slots_of(lm, kind))
    logits = np.asarray(call(lm.module, lm.params, batch, injection_of(lm, kind, 2)))
    for row, number, example in ((0, 1, 1), (0, 2, 0), (0, 3, 2), (1, 1, 2)):
        np.testing.assert_allclose(logits[row][batch.target_segments[row] == number], alone(kind)[example], **EXACT)


def test_positions_are_counted_inside_segments():
    segments = np.array([[1, 1, 2, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    found = np.where(segments > 0, within_segments(segments), -1)
    np.testing.assert_array_equal(found, [[0, 1, 0, 1, 2, -1, -1], [-1, -1, 0, 1, 2, 3, 4]])


# Decoding


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_once_and_step_by_step_agree(lm, examples, alone, kind, left):
    steps = max(len(target) for _, target in examples)
    batch = contexts_of(examples, slots=slots_of(lm, kind), left=left)
    injection = injection_of(lm, kind, len(examples))
    logits, cache = call(lm.module, lm.params, batch, injection, method="prefill", max_length=steps)
    targets = np.array([(*target, *[0] * (steps - len(target))) for _, target in examples], np.int32)
    found = [logits]
    for step in range(steps - 1):
        logits, cache = call(lm.module, lm.params, targets[:, step], cache, method="decode_step")
        found.append(logits)
    assert_rows_equal(np.stack(found, axis=1), alone(kind))


def test_rows_of_a_cache_can_be_taken_in_any_order(lm, examples):
    kind = "a prefix a row"
    batch = contexts_of(examples, left=True)
    injection = injection_of(lm, kind, len(examples))
    _, cache = call(lm.module, lm.params, batch, injection, method="prefill", max_length=2)
    tokens, rows = np.array([5, 6, 7], np.int32), np.array([2, 0, 0, 1])
    whole, _ = call(lm.module, lm.params, tokens, cache, method="decode_step")
    found, _ = call(lm.module, lm.params, tokens[rows], cache.take_rows(rows), method="decode_step")
    np.testing.assert_allclose(found, whole[rows], **EXACT)


# A prompt read ahead is the prompt in front of every row


@pytest.mark.parametrize("leading", [(), (2,)], ids=["one prompt", "a prompt a row"])
def test_reading_a_prompt_ahead_is_prepending_it(lm, examples, leading):
    rows = [examples, examples[:1]]  # three in a row, and one
    tokens = random_tokens(lm.config, *leading)
    in_front = causal_batch(rows, slots=slots_of(lm, "tokens"))
    expected, gradient = logits_and_gradient(lm.module, lm.params, in_front, Injection(tokens))
    found, its_gradient = read_ahead(lm.module, lm.params, causal_batch(rows), tokens)
    real = in_front.target_segments > 0
    np.testing.assert_allclose(found[real], expected[real], **EXACT)
    assert relative_difference(its_gradient, gradient.tokens) <= GRADIENT


@functools.partial(jax.jit, static_argnums=0)
def read_ahead(module, params, batch, tokens):
    """(logits, gradient of the summed cross-entropy for the tokens), the prompt read ahead."""
    prefix, pull = jax.vjp(lambda tokens: module.apply({"params": params}, tokens, method="prompt_prefix"), tokens)
    logits, gradient = logits_and_gradient(module, params, batch, prefix)
    return logits, pull(gradient)[0]


def test_reading_a_prompt_ahead_takes_fewer_operations(lm):
    rows = [[example] for example in random_examples(lm.config.vocab_size, [6] * 8, [2] * 8)]
    apply = lambda *args, **kwargs: lm.module.apply({"params": lm.params}, *args, **kwargs)  # noqa: E731

    def operations(batch, injection):
        loss = lambda tokens: apply(batch, injection(tokens)).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(random_tokens(lm.config)).compile()
        return compiled.cost_analysis()["flops"]

    in_front = operations(causal_batch(rows, slots=slots_of(lm, "tokens")), Injection)
    ahead = operations(causal_batch(rows), lambda tokens: apply(tokens, method="prompt_prefix"))
    # Of 8 rows with 4 virtual and 7 real tokens, the virtual ones are computed for one.
    assert ahead < 0.8 * in_front


# A prefix of real tokens' keys and values is those tokens


def test_a_prefix_of_real_tokens(lm, examples):
    first = [11, 12, 13, 14]
    context = causal_batch([[(first, (0,))]])
    _, cache = call(lm.module, lm.params, context, None, method="prefill", max_length=1)
    keys, values = np.moveaxis(cache.held.keys[:, 0], -1, 1), np.moveaxis(cache.held.values[:, 0], -2, 1)
    kv = {"decoder": (keys[:, :SLOTS], values[:, :SLOTS])}
    whole = causal_batch([[([*first, *context], target)] for context, target in examples])
    rest = causal_batch([[example] for example in examples])
    expected = call(lm.module, lm.params, whole)
    found = call(lm.module, lm.params, rest, Injection(kv=kv, offset=SLOTS))
    real = rest.target_segments > 0
    np.testing.assert_allclose(found[real], expected[real], **EXACT)
    # Without the offset, tokens stand where the prefix stands: another place, other logits.
    moved = call(lm.module, lm.params, rest, Injection(kv=kv))
    assert np.abs(moved - expected)[real].mean() > 0.05


def test_a_virtual_token_may_stand_anywhere(lm):
    ids, table = [7, 8, 9, 10, 11, 12], np.asarray(lm.embedding_table)
    V = lm.config.vocab_size
    expected = call(lm.module, lm.params, causal_batch([[(ids, (3, 4))]]))
    mixed = causal_batch([[([7, V + 1, 9, V, 11, V + 2], (3, 4))]])
    found = call(lm.module, lm.params, mixed, Injection(table[[10, 8, 12]]))
    np.testing.assert_allclose(found, expected, **EXACT)


# What cannot be represented comes out as NaN, not as something else


def test_positions_past_the_table_are_not_a_number(lm):
    N = lm.config.max_positions
    rows = random_examples(lm.config.vocab_size, [N - 1, N, 5], [2, 2, 2])
    logits = np.asarray(call(lm.module, lm.params, causal_batch([[row] for row in rows])))
    assert np.isfinite(logits[[0, 2]]).all()
    assert np.isnan(logits[1]).all()
    prefix = Injection(kv={"decoder": random_prefix(lm.config)}, offset=SLOTS)
    logits = np.asarray(call(lm.module, lm.params, causal_batch([[row] for row in rows]), prefix))
    assert np.isnan(logits[:2]).all()
    assert np.isfinite(logits[2]).all()


def test_decoding_past_the_table_is_not_a_number(lm):
    N = lm.config.max_positions
    rows = random_examples(lm.config.vocab_size, [N, 5], [1, 1])
    logits, cache = call(lm.module, lm.params, contexts_of(rows), None, method="prefill", max_length=1)
    assert np.isfinite(logits).all()
    logits, _ = call(lm.module, lm.params, np.array([4, 4], np.int32), cache, method="decode_step")
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()


def test_slots_without_a_prompt_are_not_a_number(lm, examples):
    batch = causal_batch([examples[:1], examples[1:2]], slots=slots_of(lm, "tokens"))
    logits = call(lm.module, lm.params, batch, Injection(random_tokens(lm.config)[:-1]))
    assert np.isnan(logits).all()


def test_a_row_of_padding_alone_disturbs_nothing(lm, examples):
    batch = causal_batch([[example] for example in examples])
    blank = lambda array: np.concatenate([array, np.zeros_like(array[:1])])  # noqa: E731
    padded = jax.tree.map(blank, batch)
    injection = injection_of(lm, "prefix", 3)
    expected, gradient = logits_and_gradient(lm.module, lm.params, batch, injection)
    found, its_gradient = logits_and_gradient(lm.module, lm.params, padded, injection)
    assert jnp.isfinite(found).all()
    np.testing.assert_allclose(found[:-1], expected, **EXACT)
    for ours, theirs in zip(its_gradient.kv["decoder"], gradient.kv["decoder"], strict=True):
        assert relative_difference(ours, theirs) <= GRADIENT
    logits, _ = call(lm.module, lm.params, padded, injection, method="prefill", max_length=1)
    assert jnp.isfinite(logits).all()
