"""Initial values of a prompt's virtual tokens (Lester et al. 2021, 3.2 "Ablation study: Initialization").

An initializer maps (key, embedding table [V, E]) to tokens [P, E] in fp32. Text is tokenised when the initializer is
made, so that it can itself be traced.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Initializer = Callable[[PRNGKeyArray, Float[Array, "V E"]], Float[Array, "P E"]]

NAMES = ("random", "sampled_vocab", "class_labels", "string", "saved", "npy")
"""The values of `prompt.init`."""


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """How virtual tokens start.

    Attributes:
        name: `random` (uniform in ±scale), `sampled_vocab` (embeddings of common tokens), `class_labels` (one slot a
            label, then sampled vocabulary), `string` (one slot a token of `text`, then sampled vocabulary), `saved` (an
            exported prompt's directory) or `npy` (an array file of the original release).
        scale: bound of the uniform distribution; the paper's is 0.5.
        vocab_limit: sampled tokens have ids below this; the paper takes the 5,000 most common, which SentencePiece
            numbers first.
        labels: label words, for `class_labels`.
        text: for `string`.
        path: for `saved` and `npy`.
    """

    name: str = "sampled_vocab"
    scale: float = 0.5
    vocab_limit: int = 5000
    labels: tuple[str, ...] = ()
    text: str = ""
    path: str = ""


def make_initializer(config: InitConfig, length: int, tokenizer: Any) -> Initializer:
    """The initializer that the config names, for a prompt of `length` virtual tokens.

    Raises:
        ValueError: the name is unknown, or what it needs (labels, text, path, tokenizer) is missing or unusable.
    """
    if config.name not in NAMES:
        near = difflib.get_close_matches(config.name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"prompt.init is {config.name!r}; known: {list(NAMES)}{hint}")
    if config.name == "random":
        return random_uniform(length, config.scale)
    if config.name in ("saved", "npy"):
        return _stored(config, length)
    if tokenizer is None:
        raise ValueError(f"prompt.init={config.name!r} needs the model's tokenizer, and this model has none")
    filler = sampled_vocab(length, min(config.vocab_limit, _num_text_tokens(tokenizer)))
    if config.name == "class_labels":
        if not config.labels:
            raise ValueError("prompt.init='class_labels' needs labels: give prompt.labels, or use a task that has some")
        return _averages([token_ids(tokenizer, label, "label") for label in config.labels], length, filler)
    if config.name == "string":
        if not config.text:
            raise ValueError("prompt.init='string' needs prompt.text")
        return _averages([[token] for token in token_ids(tokenizer, config.text, "text")], length, filler)
    return filler


def random_uniform(length: int, scale: float = 0.5) -> Initializer:
    """Uniform in [-scale, scale] (3.2: "randomly … uniformly from the range [-0.5, 0.5]")."""
    return lambda key, table: jax.random.uniform(key, (length, table.shape[1]), jnp.float32, -scale, scale)


def sampled_vocab(length: int, vocab_limit: int) -> Initializer:
    """Embeddings of tokens drawn from ids below the limit; without replacement as long as there are enough."""

    def init(key: PRNGKeyArray, table: Float[Array, "V E"]) -> Float[Array, "P E"]:
        limit = min(vocab_limit, table.shape[0])
        ids = jax.random.choice(key, limit, (length,), replace=length > limit)
        return table[ids].astype(jnp.float32)

    return init


def token_ids(tokenizer: Any, text: str, what: str) -> list[int]:
    """The ids of a text without special tokens.

    Raises:
        ValueError: it has none, or some of it is unknown to the tokenizer.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids or tokenizer.unk_token_id in ids:
        found = "no tokens" if not ids else f"the unknown token, as {tokenizer.convert_ids_to_tokens(ids)}"
        raise ValueError(f"the {what} {text!r} is {found} to this tokenizer; write it in words that it knows")
    return ids


def _averages(groups: Sequence[Sequence[int]], length: int, filler: Initializer) -> Initializer:
    """One slot a group of ids, the mean of their embeddings; groups past the length are cut, free slots filled."""

    def init(key: PRNGKeyArray, table: Float[Array, "V E"]) -> Float[Array, "P E"]:
        rows = [table[jnp.asarray(group)].astype(jnp.float32).mean(axis=0) for group in groups[:length]]
        return filler(key, table).at[: len(rows)].set(jnp.stack(rows))

    return init


def _stored(config: InitConfig, length: int) -> Initializer:
    """The virtual tokens of an exported prompt or of an array file, which must have the exact shape."""
    from jaxprompt.prompts import store

    if not config.path:
        raise ValueError(f"prompt.init={config.name!r} needs prompt.path")
    saved = store.load_npy(config.path) if config.name == "npy" else store.load_prompt(config.path)[0]
    tokens = saved.tokens
    if tokens is None:
        raise ValueError(f"the prompt in {config.path} has no virtual tokens to start from")

    def init(key: PRNGKeyArray, table: Float[Array, "V E"]) -> Float[Array, "P E"]:
        if tokens.shape != (length, table.shape[1]):
            raise ValueError(
                f"the prompt in {config.path} has shape {tokens.shape}, this run needs {(length, table.shape[1])}; "
                f"set prompt.length={tokens.shape[0]} and use a model of width {tokens.shape[-1]}"
            )
        return jnp.asarray(tokens, jnp.float32)

    return init


def _num_text_tokens(tokenizer: Any) -> int:
    """The number of ids before T5's sentinels, which stand last and are not words."""
    sentinels = [token for token in tokenizer.get_vocab() if token.startswith("<extra_id_")]
    return len(tokenizer) - len(sentinels)
