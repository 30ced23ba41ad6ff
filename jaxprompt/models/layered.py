"""A stack's weights layer by layer, as programs for CPUs read them.

Parameters are stacked on a leading layer axis. A compiled program that takes one layer out of such an array copies it,
which on a CPU is a fifth of a training step's memory; given each layer as an argument of its own it does not. The
arrays made here lie in the stacked arrays' own memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxprompt.types import Params

STACK = "block"
"""The name of a stack of layers among a model's parameters."""

WRITTEN_OUT_ON_CPU = 12
"""Layers of a stack that programs for CPUs write out one after the other. A loop over them stacks what the backward
pass needs, which costs a tenth to a fifth of a step in copies; a program of more layers would compile too long."""


@jax.tree_util.register_pytree_node_class
class Apart:
    """One array a layer in place of a stacked one; indexing gives a layer's."""

    def __init__(self, layers: Iterable[Any]) -> None:
        self._layers = tuple(layers)

    def __getitem__(self, number: int) -> Any:
        """The array of that layer."""
        return self._layers[number]

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """For JAX."""
        return self._layers, None

    @classmethod
    def tree_unflatten(cls, _: None, layers: Iterable[Any]) -> Apart:
        """For JAX."""
        return cls(layers)


def is_apart(leaf: Any) -> bool:
    """Whether that holds a stack's layers one by one."""
    return isinstance(leaf, Apart)


def layer_of(number: int, tree: Any) -> Any:
    """A layer's part of a tree of stacked arrays or of `Apart`."""
    return jax.tree.map(lambda leaf: leaf[number], tree, is_leaf=is_apart)


def apart(params: Params) -> Params:
    """The same parameters, with the layers of stacks apart where programs write them out: on one CPU, few layers.

    Args:
        params: a model's, or a part of them; not to be donated or changed while what comes of them is in use.
    """

    def split(leaf: Any) -> Any:
        layers = np.asarray(leaf)
        return Apart(jax.device_put(layers[number], leaf.sharding, may_alias=True) for number in range(len(layers)))

    found: dict[str, Any] = {}
    for name, part in params.items():
        if name == STACK and all(map(_splits, jax.tree.leaves(part))):
            found[name] = jax.tree.map(split, part)
        else:
            found[name] = apart(part) if isinstance(part, Mapping) else part
    return found


def _splits(leaf: Any) -> bool:
    return (
        isinstance(leaf, jax.Array)
        and isinstance(leaf.sharding, SingleDeviceSharding)
        and next(iter(leaf.devices())).platform == "cpu"
        and leaf.shape[0] <= WRITTEN_OUT_ON_CPU
    )
