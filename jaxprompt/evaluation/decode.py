"""Generation with a static-shape cache: greedy decoding.

Every way of generating is built from the two calls of `DecodableModel`, so that a new one is a new loop here and
nothing in a model: `prefill` reads a batch once, `decode_step` reads one more token a row.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprompt.types import Batch, Params


class DecodableModel(Protocol):
    """What generation needs of a model: `PatchedModel` has it. Hashed by identity."""

    @property
    def config(self) -> Any:
        """Names `eos_token_id` and `pad_token_id`."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "B V"], Any]:
        """Logits of the first new token, and a cache with room for `max_length` new tokens."""

    def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Any) -> tuple[Float[Array, "B V"], Any]:
        """Reads one token a row; logits of the next one, and the cache that holds it."""


def generate(
    model: DecodableModel,
    params: Params,
    batch: Batch,
    *,
    max_new_tokens: int,
    eos_id: int | None = None,
    pad_id: int | None = None,
) -> Int[Array, "B {max_new_tokens}"]:
    """The most likely continuation of each row, token by token (greedy decoding).

    It is compiled once for each model and shape of the inputs, and stops as soon as every row has ended.

    Args:
        model: a patched model.
        params: its {'model': ..., 'prompt': ...}.
        batch: rows whose `inputs` are read; targets are not.
        max_new_tokens: tokens to generate at most, the end of text included.
        eos_id: the token that ends a row; by default the model's own. -1: none does.
        pad_id: the token that fills a row after its end; by default the model's own.

    Returns:
        Generated ids: up to and with the end of text, then padding.

    Raises:
        ValueError: `max_new_tokens` is not positive.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    eos_id = model.config.eos_token_id if eos_id is None else eos_id
    pad_id = model.config.pad_token_id if pad_id is None else pad_id
    return _greedy(model, params, inputs_only(batch), max_new_tokens=max_new_tokens, eos_id=eos_id, pad_id=pad_id)


def to_texts(model: DecodableModel, ids: Int[np.ndarray, "B T"]) -> list[str]:
    """The text of each row of generated ids, up to its end of text.

    Other special tokens stay in the text: a model that wraps an answer in sentinels has not given that answer. Rows of
    the embedding table that the tokenizer does not know, which pad some tables to a round size, read as unknown.
    """
    tokenizer = model.tokenizer
    known, unknown = len(tokenizer), tokenizer.unk_token_id
    texts = []
    for row in np.asarray(ids).tolist():
        if model.config.eos_token_id in row:
            row = row[: row.index(model.config.eos_token_id)]
        row = [token if token < known else unknown for token in row if token != model.config.pad_token_id]
        texts.append(tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return texts


def inputs_only(batch: Batch) -> Batch:
    """The batch without its targets, whose shapes must not decide whether generation is compiled anew."""
    dropped = ("targets", "target_segments", "target_weights", "target_positions", "index")
    return dataclasses.replace(batch, **dict.fromkeys(dropped))


def jit_with_model(function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function whose first argument is a model, static by identity.

    What it compiles lives as long as the model does. (A static argument of `jax.jit` itself would keep every model
    that was ever used, weights included, in jit's global cache.)
    """
    compiled: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        if model not in compiled:
            alive = weakref.ref(model)
            compiled[model] = jax.jit(lambda *a, **k: function(alive(), *a, **k), static_argnames=tuple(static))
        return compiled[model](*args, **kwargs)

    return call


@functools.partial(jit_with_model, static=("max_new_tokens", "eos_id", "pad_id"))
def _greedy(
    model: DecodableModel, params: Params, batch: Batch, *, max_new_tokens: int, eos_id: int, pad_id: int
) -> Int[Array, "B {max_new_tokens}"]:
    logits, cache = model.prefill(params, batch, max_new_tokens)
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    generated = jnp.full((tokens.shape[0], max_new_tokens), pad_id, jnp.int32).at[:, 0].set(tokens)

    def unfinished(state):
        step, _, _, ended, _ = state
        return (step < max_new_tokens) & ~jnp.all(ended)

    def extend(state):
        step, tokens, cache, ended, generated = state
        logits, cache = model.decode_step(params, tokens, cache)
        tokens = jnp.where(ended, pad_id, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        return step + 1, tokens, cache, ended | (tokens == eos_id), generated.at[:, step].set(tokens)

    state = (jnp.int32(1), tokens, cache, tokens == eos_id, generated)
    return jax.lax.while_loop(unfinished, extend, state)[-1]
