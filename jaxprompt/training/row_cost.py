"""What a training step costs by the shape of its rows, to choose shapes by; `planning.flops` counts exactly.

A token costs the matrices that it goes through, forward and back. A pair of a query and a key costs the two products
that it has a part in, forward and twice back, and as much again for the softmax between them, which reads and writes
more than it multiplies. (On two CPU cores, T5 small took about twice as long for a pair as for its products.)
"""

from __future__ import annotations

import jax

from jaxprompt import trees
from jaxprompt.data.packing import RowShape
from jaxprompt.patching import PatchedModel

_PER_WEIGHT = 4.0  # operations: a multiplication and an addition, forward and for the activations' gradient
_PER_PAIR = 24.0  # for each number of a head: 4 forward, 8 back, and the softmax


def row_cost(model: PatchedModel, shape: RowShape) -> float:
    """The estimated operations of a training step with frozen weights.

    Args:
        model: a patched model, whose prompt may lengthen what attention sees.
        shape: of the batch.
    """
    cfg, (rows, inputs, targets) = model.config, shape
    prefix = model.prefix_length
    width = cfg.num_heads * cfg.d_kv
    head = cfg.d_model * cfg.vocab_size
    if cfg.is_causal:
        weights = inputs * _stack_size(model, "decoder") + targets * head
        pairs = cfg.num_layers * width * inputs * (inputs + prefix)
    else:
        weights = inputs * _stack_size(model, "encoder") + targets * (_stack_size(model, "decoder") + head)
        # Short targets attend to what keys and values are made of, see `attention.attend_unprojected`.
        cross = cfg.num_heads * cfg.d_model if targets < cfg.d_kv and not prefix else width
        decoder = targets * (targets + prefix) * width + targets * (inputs + prefix) * cross
        pairs = cfg.num_layers * width * inputs * (inputs + prefix) + cfg.num_decoder_layers * decoder
    return rows * (_PER_WEIGHT * weights + _PER_PAIR * pairs)


def _stack_size(model: PatchedModel, stack: str) -> int:
    """Numbers in the matrices of a stack's layers."""
    kernels = [kernel for path, kernel in trees.flatten(model.lm.params[stack]["block"]).items() if "kernel" in path]
    # Of a quantised one, the integers; its scales are few.
    return sum(max(leaf.size for leaf in jax.tree.leaves(kernel)) for kernel in kernels)
