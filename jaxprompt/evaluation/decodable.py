"""What generation and ranking need of a model, and how their loops over it are compiled.

Every way of generating is built from the two calls of `DecodableModel` and from `Cache.take_rows`, so that a new one is
a new loop in this package and nothing in a model.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.sharding import place_rows
from jaxprompt.types import Batch, Params


class Cache(Protocol):
    """What a model keeps between steps: a tree of arrays that only the model can read."""

    def take_rows(self, rows: Int[Array, " R"], *, same_inputs: bool = False) -> Any:
        """The cache of the given rows, in that order; rows may repeat.

        Args:
            rows: numbers of rows of this cache.
            same_inputs: a promise that rows stay with their inputs, as the beams of one input do: the first R/B of the
                new rows are of the input that the first rows of this cache are of, and so on. What was made of the
                inputs alone then need not be moved.
        """


class DecodableModel(Protocol):
    """What generation needs of a model: `PatchedModel` has it. Hashed by identity."""

    @property
    def config(self) -> Any:
        """Names `eos_token_id`, `pad_token_id`, `vocab_size`, `is_causal`, and a T5's `decoder_start_token_id`."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""

    @property
    def mesh(self) -> Mesh | None:
        """The devices that rows are split over; None: one."""

    @property
    def prefix_length(self) -> int | Int[np.ndarray, " N"]:
        """Positions of a causal model that the prompt takes outside of the rows, or each of those that rows name."""

    @property
    def target_start(self) -> Sequence[int]:
        """What every target begins with before its own text."""

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as a target, its end of text included."""

    def for_programs(self, params: Params) -> Params:
        """The parameters in the form that compiled programs read fastest, which may be as they are."""

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "B V"], Any]:
        """Logits of the first new token, and a `Cache` with room for `max_length` new tokens."""

    def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Any) -> tuple[Float[Array, "B V"], Any]:
        """Reads one token a row; logits of the next one, and the `Cache` that holds it."""


def inputs_only(batch: Batch) -> Batch:
    """The batch without its targets, whose shapes must not decide whether generation is compiled anew.

    Of a causal model's rows the targets become padding.
    """
    if batch.target_positions is not None:
        read = np.arange(batch.inputs.shape[1]) <= batch.target_positions[:, :1]
        batch = dataclasses.replace(batch, input_segments=batch.input_segments * read)
    dropped = ("targets", "target_segments", "target_weights", "target_positions", "index")
    return dataclasses.replace(batch, **dict.fromkeys(dropped))


def placed_inputs(model: DecodableModel, batch: Batch) -> Batch:
    """The same on the devices that the model's rows are split over; every process holds the whole batch."""
    return place_rows(inputs_only(batch), model.mesh)


def check_room(model: DecodableModel, batch: Batch, new_tokens: int) -> None:
    """Makes sure that a model's position table holds the rows of a batch and what is to come behind them.

    Raises:
        ValueError: it does not.
    """
    limit = getattr(model.config, "max_positions", 0)
    if not limit:
        return
    inputs = inputs_only(batch)
    lengths = np.sum(np.asarray(inputs.input_segments) > 0, axis=1)
    before = np.asarray(model.prefix_length)
    before = np.broadcast_to(before if batch.prompts is None else before[np.asarray(batch.prompts)], lengths.shape)
    longest = int(np.argmax(lengths + before))
    if lengths[longest] + before[longest] + new_tokens - 1 > limit:  # the last new token is never read
        raise ValueError(
            f"a row of {lengths[longest]} tokens, a prompt of {before[longest]} in front and {new_tokens} new tokens "
            f"take more than the model's {limit} positions; shorten the text, or generate less"
        )


def jit_with_model(function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function whose first arguments are a model, static by identity, and its parameters.

    What it compiles lives as long as the model does. (A static argument of `jax.jit` itself would keep every model
    that was ever used, weights included, in jit's global cache.)
    """
    compiled: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def call(model: Any, params: Params, *args: Any, **kwargs: Any) -> Any:
        if model not in compiled:
            alive = weakref.ref(model)
            compiled[model] = jax.jit(lambda *a, **k: function(alive(), *a, **k), static_argnames=tuple(static))
        return compiled[model](model.for_programs(params), *args, **kwargs)

    return call
