"""The kernels of `attention_pallas`: what one TPU core computes of attention. Axis letters as in `jaxprompt.types`.

All arrays have positions last, [B, H, D, S], as the TPU's compiler lays out the results of a model's projections where
heads are narrower than its registers of 128 lanes; so none is moved on its way into a kernel or out of it. A head's
channels lie across registers, and a head is picked without any work.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
"""Of a TPU's registers: queries and keys are padded to a multiple of it, inside the core."""

_ROWS = 16  # of two-byte numbers in a register
# Queries whose scores are made at once, in registers' widths: more keep the matrix unit busier, and spill more.
_MOST_QUERIES = 3
_MOST_HEADS = 6  # of one row that a core fetches at once
_USUAL_BYTES = 16 * 2**20  # of a core's own memory, that any kernel may take
_TEMPORARIES = 8  # arrays of a chunk's scores that are there at once, at most
_MASKED = float(jnp.finfo(jnp.float32).min)

Operands = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of attention on one device.

    Attributes:
        rows: B.
        queries: Q.
        keys: K.
        heads: H.
        size: of a head, D.
    """

    rows: int
    queries: int
    keys: int
    heads: int
    size: int

    @property
    def at_once(self) -> int:
        """Heads that are fetched together."""
        return max(count for count in range(1, _MOST_HEADS + 1) if not self.heads % count)

    @property
    def padded_queries(self) -> int:
        """Q as the core sees it."""
        return -(-self.queries // LANES) * LANES

    @property
    def padded_keys(self) -> int:
        """K as the core sees it."""
        return -(-self.keys // LANES) * LANES

    def chunks(self) -> Iterator[tuple[int, int]]:
        """The queries whose scores are made at once: (the first, how many), of about equal number."""
        left, start = self.padded_queries // LANES, 0
        while left:
            take = -(-left // -(-left // _MOST_QUERIES))
            yield start * LANES, take * LANES
            start, left = start + take, left - take

    def core_bytes(self, itemsize: int, *, has_bias: bool) -> int:
        """What the largest of the kernels takes of a core's own memory; what is read or written is there twice.

        Args:
            itemsize: of queries, keys and values.
            has_bias: whether there is one.
        """
        scores = self.padded_queries * self.padded_keys
        by_head = 4 * self.size * (self.padded_queries + self.padded_keys) * itemsize
        if has_bias:
            by_head += scores * (itemsize + 4)
        chunk = max(count for _, count in self.chunks())
        return 2 * (self.at_once * by_head + 2 * scores) + 4 * _TEMPORARIES * chunk * self.padded_keys


def forward(operands: Operands, shape: Shape, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """Attention's result, [B, H, D, Q], and the log-sum-exp of the scores, which the backward pass wants.

    Args:
        operands: `query`, `key` and `value`, [B, H, D, S]; `mask`, [#B, 1, #Q, K]; `scale`, [1]; and maybe `bias`,
            [#B, H, Q, K].
        shape: theirs.
        interpret: whether the kernel is run as plain JAX operations.
    """
    query = operands["query"]
    sums = jax.ShapeDtypeStruct((shape.rows, shape.heads, 1, shape.queries), jnp.float32)
    results = {"out": jax.ShapeDtypeStruct(query.shape, query.dtype), "sums": sums}
    done = _call(_forward, operands, results, shape, interpret, products=2)
    return done["out"], done["sums"]


def backward(operands: Operands, shape: Shape, interpret: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of queries, keys and values.

    Args:
        operands: those of `forward`, its results `out` and `sums`, and `d_out`, the gradient of `out`.
        shape: theirs.
        interpret: whether the kernel is run as plain JAX operations.
    """
    names = ("query", "key", "value")
    results = {name: jax.ShapeDtypeStruct(operands[name].shape, operands[name].dtype) for name in names}
    done = _call(_backward, operands, results, shape, interpret, products=5)
    return done["query"], done["key"], done["value"]


def bias_gradient(operands: Operands, shape: Shape, interpret: bool) -> jax.Array:
    """The gradient of the bias, in its own shape: summed over the rows that share it.

    Args:
        operands: those of `backward`.
        shape: theirs.
        interpret: whether the kernel is run as plain JAX operations.
    """
    bias = operands["bias"]
    results = {"bias": jax.ShapeDtypeStruct(bias.shape, jnp.float32)}
    kernel = functools.partial(_bias_gradient, is_shared=bias.shape[0] == 1)
    return _call(kernel, operands, results, shape, interpret, products=2)["bias"].astype(bias.dtype)


def _call(
    kernel: Callable[..., None],
    operands: Operands,
    results: Mapping[str, jax.ShapeDtypeStruct],
    shape: Shape,
    interpret: bool,
    *,
    products: int,
) -> dict[str, jax.Array]:
    """Runs a kernel for some heads at a time and, inside that, every row, so that a bias which rows share stays."""
    operands = {**operands, "mask": _full_mask(operands["mask"], shape, has_bias="bias" in operands)}
    arrays: tuple[Any, ...] = (*operands.values(), *results.values())
    specs = lambda arrays: {name: _block(name, array.shape, shape) for name, array in arrays.items()}  # noqa: E731
    scores = shape.rows * shape.heads * shape.queries * shape.keys
    moved = sum(array.size * array.dtype.itemsize for array in arrays)
    needed = shape.core_bytes(operands["query"].dtype.itemsize, has_bias="bias" in operands)
    return pl.pallas_call(
        functools.partial(kernel, shape=shape),
        out_shape=dict(results),
        grid=(shape.heads // shape.at_once, shape.rows),
        in_specs=[specs(operands)],
        out_specs=specs(results),
        # Heads are independent; rows may add up to the gradient of one bias.
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=max(needed, _USUAL_BYTES)
        ),
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * scores * shape.size, bytes_accessed=moved, transcendentals=scores
        ),
        interpret=interpret,
    )(operands)


def _block(name: str, whole: tuple[int, ...], shape: Shape) -> pl.BlockSpec:
    """The part of an array that is one row's and some heads'; its end may lie behind the array's."""
    row = lambda b: b if whole[0] > 1 else 0  # noqa: E731
    if name == "scale":
        return pl.BlockSpec(memory_space=pltpu.SMEM)
    if name == "mask":
        return pl.BlockSpec((1, *whole[1:]), lambda h, b: (row(b), 0, 0, 0))
    if name == "bias":
        block = (1, shape.at_once, shape.padded_queries, shape.padded_keys)
        return pl.BlockSpec(block, lambda h, b: (row(b), h, 0, 0))
    length = shape.padded_keys if name in ("key", "value") else shape.padded_queries
    return pl.BlockSpec((1, shape.at_once, whole[2], length), lambda h, b: (b, h, 0, 0))


def _full_mask(mask: jax.Array, shape: Shape, *, has_bias: bool) -> jax.Array:
    """The mask, False behind the last query and key, as numbers that are quickly compared.

    So whatever the core reads behind the end of the bias is never used.
    """
    extra = [(0, 0), (0, 0), (0, 0), (0, shape.padded_keys - shape.keys)]
    if mask.shape[2] == 1 and not has_bias:
        return jnp.pad(mask.astype(jnp.float32), extra)
    extra[2] = (0, shape.padded_queries - shape.queries)
    whole = jnp.broadcast_to(mask, (*mask.shape[:2], shape.queries, shape.keys))
    return jnp.pad(whole.astype(jnp.bfloat16), extra)


def _forward(refs: Mapping[str, Any], results: Mapping[str, Any], *, shape: Shape) -> None:
    def one(head: Any, _: None) -> None:
        key, value = (_positions(refs[name], head, shape.keys) for name in ("key", "value"))
        # Rows of ones sum the weights in passing, and give the sums along the lanes.
        value = jnp.concatenate([value, jnp.ones((_ROWS, value.shape[1]), value.dtype)], axis=0)
        for start, count in shape.chunks():
            at = pl.ds(start, count)
            query = _query(refs, head, shape, start, count)
            scores = _scores(refs, query.astype(key.dtype), key, head, at)
            top = scores.max(axis=1, keepdims=True)
            mixed = _product(value, jnp.exp(scores - top).astype(value.dtype), 1, 1)
            total = mixed[shape.size : shape.size + 1]
            results["out"][0, head, :, at] = (mixed[: shape.size] / total).astype(results["out"].dtype)
            results["sums"][0, head, :, at] = jnp.broadcast_to(top, (count, LANES)).T[:1] + jnp.log(total)

    jax.lax.fori_loop(0, shape.at_once, one, None)


def _backward(refs: Mapping[str, Any], results: Mapping[str, Any], *, shape: Shape) -> None:
    def one(head: Any, _: None) -> None:
        key, value = (_positions(refs[name], head, shape.keys) for name in ("key", "value"))
        d_key, d_value = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
        for start, count in shape.chunks():
            query, d_out, weights, d_scores = _d_scores(refs, key, value, head, shape, start, count)
            d_scores = d_scores.astype(key.dtype)
            d_value += _product(d_out, weights.astype(value.dtype), 1, 0)
            d_key += _product(query, d_scores, 1, 0)
            d_query = _product(key, d_scores, 1, 1) * refs["scale"][0]
            results["query"][0, head, :, pl.ds(start, count)] = d_query.astype(results["query"].dtype)
        results["key"][0, head] = d_key.astype(results["key"].dtype)
        results["value"][0, head] = d_value.astype(results["value"].dtype)

    jax.lax.fori_loop(0, shape.at_once, one, None)


def _bias_gradient(refs: Mapping[str, Any], results: Mapping[str, Any], *, shape: Shape, is_shared: bool) -> None:
    d_bias = results["bias"]

    @pl.when((pl.program_id(1) == 0) | (not is_shared))
    def _() -> None:
        d_bias[...] = jnp.zeros_like(d_bias)

    def one(head: Any, _: None) -> None:
        key, value = (_positions(refs[name], head, shape.keys) for name in ("key", "value"))
        for start, count in shape.chunks():
            d_bias[0, head, pl.ds(start, count), :] += _d_scores(refs, key, value, head, shape, start, count)[3]

    jax.lax.fori_loop(0, shape.at_once, one, None)


def _d_scores(
    refs: Mapping[str, Any], key: jax.Array, value: jax.Array, head: Any, shape: Shape, start: int, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Of a chunk of queries: themselves, the result's gradient, the weights and the gradient of the scores."""
    at = pl.ds(start, count)
    query = _query(refs, head, shape, start, count).astype(key.dtype)
    out, d_out = (_some(refs[name], head, shape.queries, start, count) for name in ("out", "d_out"))
    sums = _some(refs["sums"], head, shape.queries, start, count)
    weights = jnp.exp(_scores(refs, query, key, head, at) - _column(sums))
    # The sum of weights x d_weights over the keys, taken where it has fewer terms.
    mean = (out * d_out).sum(axis=0, keepdims=True)
    d_out = d_out.astype(value.dtype)
    return query, d_out, weights, weights * (_product(d_out, value, 0, 0) - _column(mean))


def _scores(refs: Mapping[str, Any], query: jax.Array, key: jax.Array, head: Any, at: Any) -> jax.Array:
    """Of a chunk of queries, [C, K]."""
    scores, mask = _product(query, key, 0, 0), refs["mask"]
    if "bias" in refs:
        scores += refs["bias"][0, head, at, :].astype(jnp.float32)
    seen = mask[0, 0] if mask.shape[2] == 1 else mask[0, 0, at, :]
    return jnp.where(jnp.broadcast_to(seen.astype(jnp.float32), scores.shape) > 0, scores, _MASKED)


def _query(refs: Mapping[str, Any], head: Any, shape: Shape, start: int, count: int) -> jax.Array:
    """A chunk of scaled queries, [D, C]."""
    return _some(refs["query"], head, shape.queries, start, count) * refs["scale"][0]


def _some(ref: Any, head: Any, length: int, start: int, count: int) -> jax.Array:
    """A chunk of a head's positions, in fp32; zeros behind the last."""
    found = ref[0, head, :, pl.ds(start, count)].astype(jnp.float32)
    return found if start + count <= length else _cleared(found, length - start)


def _positions(ref: Any, head: Any, length: int) -> jax.Array:
    """All of a head's positions; zeros behind the last."""
    found = ref[0, head]
    return found if found.shape[1] == length else _cleared(found, length)


def _cleared(x: jax.Array, length: int) -> jax.Array:
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) < length, x, jnp.zeros_like(x))


def _column(row: jax.Array) -> jax.Array:
    """[1, C] as [C, 1]."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """The matrix product over an axis of each, summed in fp32."""
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
