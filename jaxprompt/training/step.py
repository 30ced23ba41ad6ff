"""One training step: gradients of the trainable tree only, one jitted function, its state donated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, PRNGKeyArray

from jaxprompt import sharding, trees
from jaxprompt.models.platforms import platform
from jaxprompt.models.quantization import in_dtype
from jaxprompt.patching import PatchedModel
from jaxprompt.sharding import DATA, MODEL
from jaxprompt.training.loss import LossConfig, LossSums, chunked_cross_entropy, cross_entropy
from jaxprompt.types import Batch, Params

_LOGITS_BYTES = 2**27
"""Of logits in fp32, that a device holds at once; some three times as much is at work on them."""

_CACHE_BYTES = 2**23
"""Of a feed-forward layer's inner activations, that a CPU computes on at once. What the backward pass keeps is some
sixty times as much, in memory that the system has to clear anew in every step."""

TrainStep = Callable[["TrainState", Params, Batch], tuple["TrainState", dict[str, jax.Array]]]


@struct.dataclass
class TrainState:
    """What a step changes, and all that a checkpoint needs besides the position in the data.

    Of N prompts that train together, all but `step` have a leading axis N.

    Attributes:
        step: updates made so far.
        trainable: the trainable tree, such as `{'prompt': {'embedding': [P, E]}}`, fp32.
        opt_state: the optimiser's state.
        key: the run's random key; step i draws from `fold_in(key, i)`, so a resumed run draws the same.
    """

    step: Int[Array, ""]
    trainable: Params
    opt_state: optax.OptState
    key: PRNGKeyArray


def init_state(
    trainable: Params,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
    *,
    stacked: bool = False,
) -> TrainState:
    """The state before the first step; the trainable leaves are copied to fp32, for the step donates its state.

    Args:
        trainable: the trainable tree.
        optimizer: for that tree.
        key: the run's random key.
        mesh: where the state goes, see `state_shardings`; None: the default device.
        stacked: whether tree and key are those of N prompts, with a leading axis N; each gets statistics of its own.
    """
    start = jax.vmap(optimizer.init) if stacked else optimizer.init

    def init(trainable: Params, key: PRNGKeyArray) -> TrainState:
        trainable = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), trainable)
        return TrainState(jnp.zeros((), jnp.int32), trainable, start(trainable), key)

    if mesh is None:
        return init(trainable, key)
    shardings = state_shardings(jax.eval_shape(init, trainable, key), trainable, mesh)
    placed = jax.tree.map(sharding.place, (trainable, key), (shardings.trainable, shardings.key))
    # Compiled, so that each part is made in its place; the copy is not elided, for nothing is donated here.
    return jax.jit(init, out_shardings=shardings)(*placed)


def state_shardings(state: TrainState, trainable: Params, mesh: Mesh) -> Any:
    """Where each part of a state lies on a mesh, as a tree like the state's.

    A prompt and its statistics are replicated. Weights of the model that train stay split as they came, and so do those
    of their statistics that have their shape; factored ones, which are small, are replicated.

    Args:
        state: of arrays or abstract values.
        trainable: the trainable tree, of which arrays or abstract values that lie on the mesh tell where.
        mesh: of devices.
    """
    own = {
        path: leaf.sharding
        for path, leaf in trees.flatten(trainable).items()
        if isinstance(leaf.sharding, NamedSharding) and path.startswith("model/")
    }
    shapes = {path: leaf.shape for path, leaf in trees.flatten(trainable).items()}

    def place(at: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(at, simple=True, separator="/")
        # The optimiser's trees are like the trainable one: their leaves' names end in a parameter's path.
        path = name[name.rfind("model/") :]
        return own[path] if path in own and shapes[path] == leaf.shape else sharding.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def make_train_step(
    model: PatchedModel,
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs,
    loss: LossConfig,
    *,
    dropout: bool = True,
    accumulate: int = 1,
    unweighted: Sequence[int] = (),
    shardings: Any = None,
    rates: Sequence[float] = (),
) -> TrainStep:
    """The jitted step (state, frozen, batch) -> (state, metrics).

    Args:
        model: the patched model.
        optimizer: for the trainable tree.
        loss: normalisation and z-loss.
        dropout: whether the model's dropout is applied.
        accumulate: the batch is read in so many parts of equal size, their gradients summed before the one update.
        unweighted: ids whose prediction is not learnt, such as the end of text.
        shardings: where the state lies on the model's mesh (`state_shardings`), and is to stay.
        rates: for N prompts that train together, what multiplies the learning rate of each. The state is then stacked,
            `batch` a tuple of N batches of one shape, each metric an array [N], and the optimizer `rated`.

    Returns:
        A function that donates its state. Its metrics are the scalars of `LossSums.metrics`, `grad_norm`,
        `update_rms` and `padding_share`, that of the inputs which is padding.
    """

    def loss_sums(trainable: Params, frozen: Params, batch: Batch, key: PRNGKeyArray) -> tuple[jax.Array, LossSums]:
        params = trees.merge(trainable, frozen)
        # Weights that train are kept in fp32 and read in the model's dtype; for frozen ones this does nothing.
        params["model"] = in_dtype(params["model"], model.lm.module.dtype)
        hidden = model.hidden(params, batch, deterministic=not dropout, rngs={"dropout": key})
        weights = jnp.where(jnp.isin(batch.targets, jnp.asarray(unweighted, jnp.int32)), 0, batch.target_weights)
        learnt = batch.targets, weights, loss, batch.target_segments
        logits_of = functools.partial(model.logits, params)
        if chunk := _targets_at_once(model, batch, max(1, len(rates))):
            _, sums = chunked_cross_entropy(hidden, logits_of, *learnt, chunk=chunk)
        else:
            _, sums = cross_entropy(logits_of(hidden), *learnt)
        return sums.numerator, sums

    def train_step(
        state: TrainState, frozen: Params, batch: Batch, **rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.grad(loss_sums, has_aux=True)
        count = accumulate * _parts_in_cache(model, batch, accumulate, max(1, len(rates)))
        if count == 1:
            grads, sums = gradient(state.trainable, frozen, batch, key)
        else:
            # Every so many rows, so that on a mesh each device takes part in every part with rows of its own.
            parts = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), batch)
            keys = jax.random.split(key, count)
            part = lambda at: gradient(state.trainable, frozen, *at)  # noqa: E731
            add = lambda total, at: (jax.tree.map(jnp.add, total, part(at)), None)  # noqa: E731
            shapes = jax.eval_shape(part, jax.tree.map(lambda leaf: leaf[0], (parts, keys)))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            (grads, sums), _ = jax.lax.scan(add, zeros, (parts, keys))
        grads = jax.tree.map(lambda leaf: leaf / sums.denominator, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, **rate)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = sums.metrics() | {
            "grad_norm": optax.tree.norm(grads),
            "update_rms": _rms(updates),
            "padding_share": jnp.mean(batch.input_segments == 0, dtype=jnp.float32),
        }
        return TrainState(state.step + 1, trainable, opt_state, state.key), metrics

    def stacked_step(
        state: TrainState, frozen: Params, batches: tuple[Batch, ...]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        one = lambda state, batch, rate: train_step(state, frozen, batch, rate=rate)  # noqa: E731
        axes: dict[str, Any] = {"step": None, "trainable": 0, "opt_state": 0, "key": 0}
        by_prompt = TrainState(**axes)
        return jax.vmap(one, in_axes=(by_prompt, 0, 0), out_axes=(by_prompt, 0))(state, batch, jnp.asarray(rates))

    step: Any = stacked_step if rates else train_step
    if shardings is None or model.mesh is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(model.mesh)))


def _parts_in_cache(model: PatchedModel, batch: Batch, accumulate: int, prompts: int) -> int:
    """Parts that each part of a batch is read in on a CPU, so that it stays near the cache and takes little memory.

    A batch that shares one causal prompt is read as a whole, for each part would compute the prompt again.

    Args:
        model: that reads the batch.
        batch: of one prompt.
        accumulate: parts that it is read in anyway.
        prompts: that train together, and have as many rows each.
    """
    if model.mesh is not None or model.as_prefix or platform(None) != "cpu":
        return 1
    rows, length = batch.inputs.shape[0] // accumulate, batch.inputs.shape[1]
    wanted = 4 * prompts * rows * length * model.config.d_ff / _CACHE_BYTES
    counts = [count for count in range(1, rows + 1) if not rows % count]
    enough = [count for count in counts if wanted <= count < 2 * max(1, wanted)]
    return min(enough) if enough else max(count for count in counts if count <= max(1, wanted))


def _targets_at_once(model: PatchedModel, batch: Batch, prompts: int) -> int:
    """How many targets of each row have their logits at a time; 0: all of them. So many prompts train together."""
    (rows, length), mesh = batch.targets.shape, model.mesh
    # Rows and vocabulary are split over devices as far as these divide them.
    devices = (
        1 if mesh is None else math.gcd(rows, mesh.shape[DATA]) * math.gcd(model.config.vocab_size, mesh.shape[MODEL])
    )
    of_target = 4 * prompts * rows * model.config.vocab_size // devices
    fitting = max(1, _LOGITS_BYTES // of_target)
    return 0 if fitting >= length else fitting


def _rms(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    size = float(sum(leaf.size for leaf in leaves))  # whole numbers of T5 XL's size do not fit 32 bits
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves) / size)
