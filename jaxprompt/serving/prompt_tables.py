"""Many prompts as a few arrays on the device, and what a batch takes of them. Axis letters as in `jaxprompt.types`.

Virtual tokens that stand in the rows lie in one table one prompt behind the other, and a row's ids say which of them it
reads: nothing is collected row by row, and prompts may have any length. Keys and values lie in one array for each
stack, M entries of the longest one's P, shorter ones at its end; each row's are collected by number, once a batch.

A causal model's prompt that stands first is run through the model when the arrays are made, and is keys and values from
then on: what it is to the tokens behind it does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxprompt.models import layers
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import PatchedModel
from jaxprompt.sharding import MODEL, place, replicate, to_host
from jaxprompt.types import Injection, Params

_AT_ONCE = 8
"""Prompts that run through a causal model together: enough to keep it busy, few enough for its memory."""


def prompt_tables(
    lm: LanguageModel, models: Sequence[PatchedModel], injections: Sequence[Injection]
) -> tuple[dict[str, Any], list[int]]:
    """The arrays of N prompts, in the model's dtype.

    Args:
        lm: the frozen model.
        models: of each prompt, which tell how it reaches the model.
        injections: the prompts.

    Returns:
        `{"tokens": [sum of P, E], "kv": {stack: {"keys", "values": [L, M, P, H, D], "entries": [N], "lengths": [N]}},
        "offsets": [N], "infixes": [N]}` with what there is to say, lengths and infixes only where prompts differ; and
        by how much each prompt's slots are moved in the table of tokens.
    """
    dtype = lm.module.dtype  # type: ignore[attr-defined]
    tables: dict[str, Any] = {}
    in_rows = [
        0 if model.as_prefix or injection.tokens is None else len(injection.tokens)
        for model, injection in zip(models, injections, strict=True)
    ]
    starts = [0, *np.cumsum(in_rows)[:-1].tolist()]
    if any(in_rows):
        whole = [np.asarray(to_host(it.tokens), dtype) for it, count in zip(injections, in_rows, strict=True) if count]
        tables["tokens"] = replicate(jnp.asarray(np.concatenate(whole)), lm.mesh)
    if kv := _stacks(lm, _keys_values(lm, models, injections), dtype):
        tables["kv"] = kv
    if kv and lm.config.is_causal:
        offsets = jnp.asarray([model.prefix_length for model in models], jnp.int32)
        tables["offsets"] = replicate(offsets, lm.mesh)
    if any(injection.infix for injection in injections):
        tables["infixes"] = replicate(jnp.asarray([injection.infix for injection in injections]), lm.mesh)
    return tables, starts


def rows_of(lm: LanguageModel, tables: Params, prompts: Int[Array, " B"]) -> Injection:
    """What each row of a batch gets: the prompt of its number.

    Args:
        lm: the frozen model.
        tables: from `prompt_tables`.
        prompts: each row's number.
    """
    if "kv" not in tables:
        return Injection(tokens=tables.get("tokens"))
    take = lambda array, at, axis=0: jnp.take(array, at, axis=axis, mode="fill")  # noqa: E731
    kv, lengths = {}, {}
    for stack, of in tables["kv"].items():
        entries = take(of["entries"], prompts)
        keys, values = (_take_entries(lm, of[name], entries) for name in ("keys", "values"))
        kv[stack] = keys, values
        if "lengths" in of:
            lengths[stack] = take(of["lengths"], prompts)
    offsets, infixes = (take(tables[name], prompts) if name in tables else None for name in ("offsets", "infixes"))
    return Injection(tables.get("tokens"), kv, lengths=lengths, offsets=offsets, infixes=infixes)


def _take_entries(lm: LanguageModel, array: Float[Array, "L M P H D"], at: Int[Array, " B"]) -> jax.Array:
    """Each row's entry, [B, L, P, H, D]."""
    take = lambda array, axis: jnp.take(array, at, axis=axis, mode="fill")  # noqa: E731
    # Layers come first in memory, where they are read one by one, so turning the axes round and back is free. Where
    # layers are written out, each collects its own on the way to what reads them, and nothing lies there in between.
    written_out = layers.are_written_out(len(array), lm.module.unroll)  # type: ignore[attr-defined]
    collected = jnp.stack([take(layer, 0) for layer in array]) if written_out else take(array, 1)
    return jnp.moveaxis(collected, 1, 0)


def _keys_values(
    lm: LanguageModel, models: Sequence[PatchedModel], injections: Sequence[Injection]
) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Each prompt's keys and values by stack, on the host."""
    found = [
        {stack: (np.asarray(keys), np.asarray(values)) for stack, (keys, values) in to_host(dict(it.kv)).items()}
        for it in injections
    ]
    first = [number for number, model in enumerate(models) if model.as_prefix]
    if not first:
        return found
    tokens = [np.asarray(to_host(injections[number].tokens), np.float32) for number in first]
    longest, size = max(map(len, tokens)), min(_AT_ONCE, len(first))
    read = jax.jit(lambda params, tokens: models[first[0]].injected({"model": params}, Injection(tokens)).kv["decoder"])
    for start in range(0, len(first), size):
        # What stands behind a prompt does not change it, so all run in one shape.
        rows = np.zeros((size, longest, lm.config.d_model), np.float32)
        part = tokens[start : start + size]
        for row, prompt in zip(rows, part, strict=False):
            row[: len(prompt)] = prompt
        keys, values = to_host(read(lm.params, jnp.asarray(rows)))
        for number, prompt, *own in zip(first[start : start + size], part, keys, values, strict=False):
            whole_keys, whole_values = (array[:, : len(prompt)] for array in own)
            found[number] = {"decoder": (whole_keys, whole_values)}
    return found


def _stacks(
    lm: LanguageModel, prompts: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], dtype: Any
) -> dict[str, dict[str, jax.Array]]:
    """The prompts' keys and values as one pair of arrays for each stack that any of them has."""
    stacks = {}
    for stack in sorted({name for prompt in prompts for name in prompt}):
        lengths = [prompt[stack][0].shape[1] if stack in prompt else 0 for prompt in prompts]
        having = [number for number, prompt in enumerate(prompts) if stack in prompt]
        # Prompts without this stack read an entry of zeros, all of them hidden; another's might hold an infinity.
        entries = np.full(len(prompts), len(having), np.int32)
        entries[having] = np.arange(len(having))
        depth, _, heads, width = prompts[having[0]][stack][0].shape
        shape = (depth, len(having) + (len(having) < len(prompts)), max(lengths), heads, width)
        of: dict[str, jax.Array] = {"entries": replicate(jnp.asarray(entries), lm.mesh)}
        for part, name in enumerate(("keys", "values")):
            whole = np.zeros(shape, dtype)
            for entry, number in enumerate(having):
                whole[:, entry, shape[2] - lengths[number] :] = prompts[number][stack][part]
            of[name] = _by_head(whole, lm)
        if len(set(lengths)) > 1:
            of["lengths"] = replicate(jnp.asarray(lengths, jnp.int32), lm.mesh)
        stacks[stack] = of
    return stacks


def _by_head(array: np.ndarray, lm: LanguageModel) -> jax.Array:
    """[L, M, P, H, D] on the device, heads where the model's own lie."""
    if lm.mesh is None:
        return jnp.asarray(array)
    split = MODEL if not array.shape[3] % lm.mesh.shape[MODEL] else None
    return place(array, NamedSharding(lm.mesh, PartitionSpec(None, None, None, split)))
