"""Layers shared by the model families: embedding with virtual tokens, projections, norms, feed-forward.

Axis letters as in `jaxprompt.types`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxprompt.models import partition, quantization
from jaxprompt.models.attention import KEPT, gradients_apart
from jaxprompt.models.layered import WRITTEN_OUT_ON_CPU, is_apart, layer_of
from jaxprompt.models.platforms import platform
from jaxprompt.sharding import DATA, MODEL

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
}
"""Activations by their Hugging Face names."""

REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(KEPT),
    ),
}
"""What the backward pass keeps: everything; only each layer's input; also the results of weight products and of
attention, but not its weights."""


def embed(
    ids: Int[Array, "B S"], table: Float[Array, "V E"], tokens: Float[Array, "*B P E"] | None = None
) -> Float[Array, "B S E"]:
    """Embeddings of ids: below V a row of the frozen table, from V on a virtual token of the prompt.

    An id that names neither comes out as NaN, which the training loop reports: a clamped id would train the wrong slot
    in silence.

    Args:
        ids: token ids; slot k of the prompt is id V + k.
        table: the model's embedding table.
        tokens: the prompt's virtual tokens, one prompt for all rows or one a row.
    """
    vocab_size = table.shape[0]
    if tokens is None:
        return rows(table, ids)
    slots = ids - vocab_size
    virtual = rows(tokens, slots) if tokens.ndim == 2 else jax.vmap(rows)(tokens, slots)
    return jnp.where((ids < vocab_size)[..., None], rows(table, ids), virtual.astype(table.dtype))


def rows(table: Float[Array, "V E"], at: Int[Array, "..."]) -> Float[Array, "... E"]:
    """Rows of a table; NaN for a number that names none. A negative one must not count from the other end."""
    return jnp.asarray(table).at[at].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def within_segments(segments: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Each token's place in its own segment, from 0."""
    at = jnp.arange(segments.shape[1])
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return at - jax.lax.cummax(jnp.where(starts, at, 0), axis=1)


def projection(
    features: int | tuple[int, ...],
    dtype: DTypeLike,
    stddev: float,
    *,
    axis: Any = -1,
    use_bias: bool = False,
    name: str,
):
    """A linear map whose kernel keeps heads as an axis of their own, so that it can be sharded by head.

    The kernel may be quantised.
    """
    return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=nn.initializers.normal(stddev),
        promote_dtype=quantization.promote_dtype,
        dot_general=quantization.dot_general,
        name=name,
    )


def made_again(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A cheap function, of which the backward pass keeps the arguments alone on CPUs.

    They write each array that is kept to memory; an accelerator's compiler makes it again where it reads it.
    """
    return jax.checkpoint(function) if platform(None) == "cpu" else function


class Head(nn.Module):
    """The output projection of an untied model."""

    vocab_size: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Logits in fp32."""
        init = nn.initializers.normal(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", init, (x.shape[-1], self.vocab_size), self.dtype)
        return jnp.einsum("bte,ev->btv", x, kernel, preferred_element_type=jnp.float32)


class RMSNorm(nn.Module):
    """T5's layer norm: scale by the root mean square, no mean, no bias (Raffel et al. 2020, 2.1); fp32 inside."""

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
        """Normalises the last axis."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.dtype)
        x32 = x.astype(jnp.float32)
        x32 *= jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return x32.astype(self.dtype) * scale


class FeedForward(nn.Module):
    """Position-wise feed-forward layer, gated (T5 1.1, `wi_0` and `wi_1`) or plain (T5 1.0, `wi`)."""

    d_ff: int
    activation: str
    gated: bool
    dropout_rate: float
    dtype: DTypeLike
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B S E"], *, deterministic: bool) -> Float[Array, "B S E"]:
        """act(x wi) wo, or (act(x wi_0) ⊙ x wi_1) wo."""
        act = ACTIVATIONS[self.activation]
        names = ("wi_0", "wi_1") if self.gated else ("wi",)
        products = (projection(self.d_ff, self.dtype, x.shape[-1] ** -0.5, name=name)(x) for name in names)
        inner = gradients_apart([partition.constrain(product, self.mesh, DATA, None, MODEL) for product in products])
        hidden = made_again(lambda x, *by: act(x) * by[0] if by else act(x))(*inner)
        hidden = dropout(self.dropout_rate, deterministic)(hidden)
        return projection(x.shape[-1], self.dtype, self.d_ff**-0.5, name="wo")(hidden)


def dropout(rate: float, deterministic: bool) -> nn.Dropout:
    """Dropout whose mask is shared along the length axis, as T5X trains (and Lester et al. with it)."""
    return nn.Dropout(rate, broadcast_dims=(-2,), deterministic=deterministic)


def stacked(parent: nn.Module, block: type[nn.Module], length: int, num_shared: int, remat: str, unroll: int) -> Any:
    """A block as a stack of layers, parameters stacked on a leading axis.

    Called like the block's class, it gives a function of (hidden, a tree with one entry a layer, then `num_shared`
    arguments shared by all layers). With `at`, [B, T], that function returns hidden states at those places alone; where
    the layers are written out, the last one then computes no others.

    Args:
        parent: the module that the stack belongs to.
        block: one layer; to be asked for places it must take `at`.
        length: the number of layers.
        num_shared: how many shared arguments there are.
        remat: a key of `REMAT_POLICIES`.
        unroll: how many layers the compiled loop's body holds; 0: all of them on CPU if they are few, else one.

    Raises:
        ValueError: the policy is unknown.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"model.remat is {remat!r}; known policies: {sorted(REMAT_POLICIES)}")
    unroll = _layers_a_turn(length, unroll)

    def make(*args: Any, name: str, **options: Any) -> Callable[..., Any]:
        own = parent.variables.get("params", {}).get(name)
        if own is not None and (unroll >= length or any(map(is_apart, jax.tree.leaves(own, is_leaf=is_apart)))):
            return functools.partial(_written_out, parent, block(*args, **options, parent=None), own, length, remat)
        layer = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[remat]) if remat != "none" else block
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *[nn.broadcast] * num_shared),
            length=length,
            unroll=min(unroll, length),
        )(*args, **options, name=name)

        def run(x: jax.Array, per_layer: Any, *shared: Any, at: jax.Array | None = None) -> tuple[jax.Array, Any]:
            x, new = scanned(x, per_layer, *shared)
            return (x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)), new

        return run

    return make


def are_written_out(length: int, unroll: int) -> bool:
    """Whether `stacked` gives each layer code of its own."""
    return _layers_a_turn(length, unroll) >= length


def _layers_a_turn(length: int, unroll: int) -> int:
    return unroll or (length if platform(None) == "cpu" and length <= WRITTEN_OUT_ON_CPU else 1)


def _written_out(
    parent: nn.Module,
    block: nn.Module,
    params: Any,
    length: int,
    remat: str,
    x: jax.Array,
    per_layer: Any,
    *shared: Any,
    at: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """One layer after the other, each in code of its own."""
    keys = jax.random.split(parent.make_rng("dropout"), length) if parent.has_rng("dropout") else None

    def layer(number: int, x: jax.Array, own: Any, *args: Any) -> Any:
        places: dict[str, Any] = {} if at is None or number < length - 1 else {"at": at}
        rngs = {} if keys is None else {"dropout": keys[number]}
        return block.apply({"params": own}, x, *args, **places, rngs=rngs)

    kept = []
    for number in range(length):
        run: Callable[..., Any] = functools.partial(layer, number)
        if remat != "none":
            run = jax.checkpoint(run, prevent_cse=False, policy=REMAT_POLICIES[remat])
        take = functools.partial(layer_of, number)
        x, new = run(x, take(params), take(per_layer), *shared)
        kept.append(new)
    return x, jax.tree.map(lambda *each: jnp.stack(each), *kept)
