"""Batches and prompts of random numbers for the tiny T5 of conftest.py, and the passes that tests take through it."""

import functools

import jax
import numpy as np
import optax

from jaxprompt.types import Batch, Injection

ROWS, LENGTH, TARGETS, PROMPT = 3, 9, 5, 4

EXACT = {"rtol": 0, "atol": 1e-5}  # between two orders of the same fp32 sums, logits of unit size


def batch_of(inputs, targets, input_segments=None, target_segments=None):
    """A batch of ids, all of them real unless segments say otherwise."""
    inputs, targets = np.asarray(inputs, np.int32), np.asarray(targets, np.int32)
    real = lambda ids, segments: np.ones_like(ids) if segments is None else np.asarray(segments, np.int32)  # noqa: E731
    input_segments, target_segments = real(inputs, input_segments), real(targets, target_segments)
    weights = (target_segments > 0).astype(np.float32)
    return Batch(inputs, input_segments, targets, target_segments, weights, np.arange(len(inputs)))


def random_batch(vocab_size, slots=PROMPT, seed=3):
    """Slots, then ids; rows of different lengths, padded on the right."""
    rng = np.random.default_rng(seed)
    virtual = np.broadcast_to(vocab_size + np.arange(slots), (ROWS, slots))
    inputs = np.concatenate([virtual, rng.integers(2, vocab_size, (ROWS, LENGTH))], axis=1)
    real = np.arange(slots + LENGTH) < slots + np.array([LENGTH, 4, 1])[:, None]
    targets = rng.integers(2, vocab_size, (ROWS, TARGETS))
    target_real = np.arange(TARGETS) < np.array([2, TARGETS, 3])[:, None]
    return batch_of(np.where(real, inputs, 0), np.where(target_real, targets, 0), real, target_real)


def random_tokens(config, *rows):
    """Virtual tokens, [*rows, P, E]."""
    return np.random.default_rng(4).normal(size=(*rows, PROMPT, config.d_model)).astype(np.float32)


def random_kv(config, *rows, length=PROMPT):
    """Keys and values for all stacks, [*rows, L, P, H, D] each."""
    rng = np.random.default_rng(5)
    depths = {"encoder": config.num_layers, "decoder": config.num_decoder_layers, "cross": config.num_decoder_layers}
    draw = lambda depth: rng.normal(size=(*rows, depth, length, config.num_heads, config.d_kv))  # noqa: E731
    return {stack: (draw(n).astype(np.float32), draw(n).astype(np.float32)) for stack, n in depths.items()}


@functools.partial(jax.jit, static_argnums=0, static_argnames=("method", "max_length"))
def call(module, params, *args, method=None, **kwargs):
    """The module's forward pass, or another method of it, compiled."""
    return module.apply({"params": params}, *args, method=method, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def logits_and_gradient(module, params, batch, injection):
    """(logits, gradient of the summed cross-entropy for the injection)."""

    def loss(injection: Injection):
        logits = module.apply({"params": params}, batch, injection)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return (losses * batch.target_weights).sum(), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(injection)
    return logits, gradient


def relative_difference(found, expected):
    """In norm."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(expected))
