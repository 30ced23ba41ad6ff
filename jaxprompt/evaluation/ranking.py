"""Answers by rank classification: the likelihood of each of a fixed set of choices (Brown et al. 2020, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.evaluation.decodable import DecodableModel, jit_with_model, placed_inputs
from jaxprompt.types import Batch, Params

PADDING = -1
"""Fills choices up to a common length. Not the model's own padding id, which may be its end of text."""


def rank_choices(
    model: DecodableModel,
    params: Params,
    batch: Batch,
    choices: Sequence[str] | Int[np.ndarray, "C T"] | Int[np.ndarray, "B C T"],
    *,
    mean: bool = False,
) -> Float[Array, "B C"]:
    """The log likelihood of each choice as the continuation of each row, in nats.

    The inputs are read once; the choices share their keys and values.

    Args:
        model: a patched model.
        params: its {'model': ..., 'prompt': ...}.
        batch: rows whose `inputs` are read; targets are not.
        choices: texts, or ids with their end of text, filled up with -1: [C, T], or [B, C, T] where every row has
            choices of its own.
        mean: per token of the choice instead of their sum, so that long choices do not lose by their length.

    Raises:
        ValueError: choices of a wrong shape, an empty choice, or -1 before the end of one.
    """
    if not isinstance(choices, np.ndarray):
        choices = choice_ids(model, choices)
    rows = batch.inputs.shape[0]
    if choices.ndim not in (2, 3) or (choices.ndim == 3 and choices.shape[0] != rows):
        raise ValueError(f"choices must have shape [C, T], or [B, C, T] with B = {rows}; got {choices.shape}")
    real = choices >= 0
    if not real[..., 0].all() or (real[..., 1:] & ~real[..., :-1]).any():
        raise ValueError(f"every choice needs at least one token, and {PADDING} only behind its tokens")
    by_choice = (choices[None] if choices.ndim == 2 else choices).swapaxes(0, 1)
    shape = (by_choice.shape[0], rows, by_choice.shape[2])
    tokens, real = np.broadcast_to(by_choice, shape), np.broadcast_to(by_choice >= 0, shape)
    scores = _log_likelihoods(model, params, placed_inputs(model, batch), np.maximum(tokens, 0), real)
    return scores / real.sum(-1).T if mean else scores


def choice_ids(model: DecodableModel, texts: Sequence[str]) -> Int[np.ndarray, "C T"]:
    """Ids of the texts, each with its end of text, filled up with -1.

    Raises:
        ValueError: there are no texts, or the tokenizer does not fit the model.
    """
    if not texts:
        raise ValueError("rank_choices needs at least one choice")
    rows = model.target_ids(texts)
    choices = np.full((len(rows), max(map(len, rows))), PADDING, np.int32)
    for choice, ids in zip(choices, rows, strict=True):
        choice[: len(ids)] = ids
    return choices


def own_choice_ids(model: DecodableModel, choices: Sequence[Sequence[str]]) -> Int[np.ndarray, "N C T"]:
    """Ids of the choices that each of N examples has for itself, in one shape.

    A row with fewer choices than another is filled up with its first one, which among equals wins.

    Raises:
        ValueError: an example has no choices, or the tokenizer does not fit the model.
    """
    if empty := [number for number, texts in enumerate(choices) if not texts]:
        raise ValueError(f"{len(empty)} of {len(choices)} examples have no choices, such as number {empty[0]}")
    known = list(dict.fromkeys(text for texts in choices for text in texts))
    ids = choice_ids(model, known)
    place = {text: number for number, text in enumerate(known)}
    most = max(map(len, choices))
    filled = [[*texts, *texts[:1] * (most - len(texts))] for texts in map(list, choices)]
    return ids[np.array([[place[text] for text in texts] for texts in filled])]


@jit_with_model
def _log_likelihoods(
    model: DecodableModel, params: Params, batch: Batch, tokens: Int[Array, "C B T"], real: Bool[Array, "C B T"]
) -> Float[Array, "B C"]:
    first_logits, first_cache = model.prefill(params, batch, tokens.shape[-1])

    def one_choice(tokens: Int[Array, "T B"], real: Bool[Array, "T B"]) -> Float[Array, " B"]:
        def step(carry: tuple[Any, jax.Array], now: tuple[jax.Array, ...]) -> tuple[tuple[Any, jax.Array], None]:
            cache, total = carry
            token, following, counts = now
            logits, cache = model.decode_step(params, token, cache)
            return (cache, total + counts * _token_log_likelihood(logits, following)), None

        total = _token_log_likelihood(first_logits, tokens[0])
        return jax.lax.scan(step, (first_cache, total), (tokens[:-1], tokens[1:], real[1:]))[0][1]

    # vmap, and not copies of the rows, so that what all choices of a row read alike stays single.
    return jax.vmap(one_choice, out_axes=1)(tokens.swapaxes(1, 2), real.swapaxes(1, 2))


def _token_log_likelihood(logits: Float[Array, "B V"], tokens: Int[Array, " B"]) -> Float[Array, " B"]:
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
