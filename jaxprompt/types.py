"""The values that cross module borders: what a model reads, and what a prompt gives it.

Axis letters, used in every signature of this package:

    B  rows of a batch              L  layers of a stack            V  vocabulary size of the model
    S  length of the model's input  H  attention heads              P  virtual tokens of one prompt
    T  length of the targets        D  size of one head (d_kv)      N  prompts trained or run at once
    K  length of the keys           E  width of the model (d_model) F  width of the feed-forward layer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import struct

Params = Mapping[str, Any]
"""A nested dict of arrays, as Flax keeps parameters."""


@struct.dataclass
class Batch:
    """Rows of token ids, as a model reads them.

    Ids below V name rows of the model's embedding table; ids from V on name virtual tokens: slot k of a prompt is
    id V + k. Segments number the examples packed into a row from 1; 0 marks padding. Tokens attend to each other only
    inside one segment, so masks need no further field.

    Attributes:
        inputs: ids the model reads. For an encoder-decoder the encoder's input; for a causal model the whole sequence,
            targets included.
        input_segments: 0 at padding, else the number of the example in its row.
        targets: ids to predict.
        target_segments: like `input_segments`, for the targets.
        target_weights: weight of each target token in the loss; 0 at padding.
        index: the example's number in its split; -1 for a filler row that completes a batch, and for one that
            holds several examples.
        target_positions: causal models only: for every target, the index into `inputs` of the token that predicts it.
        prompts: where rows have prompts of their own: the number of each row's in its bank.
    """

    inputs: Any  # Int[Array, "B S"]
    input_segments: Any  # Int[Array, "B S"]
    targets: Any  # Int[Array, "B T"]
    target_segments: Any  # Int[Array, "B T"]
    target_weights: Any  # Float[Array, "B T"]
    index: Any  # Int[Array, "B"]
    target_positions: Any = None  # Int[Array, "B T"]
    prompts: Any = None  # Int[Array, "B"]


@struct.dataclass
class Injection:
    """What a prompt method gives to a frozen model: virtual tokens, per-layer keys and values, or both.

    Attributes:
        tokens: embeddings of the virtual tokens, [P, E]; row k is what id V + k reads. None: no virtual tokens.
        kv: for each attention stack, the (keys, values) that every query of that stack also attends to, each
            [L, P, H, D]. Stacks are `encoder` and `decoder` (self-attention) and `cross`; a causal model has `decoder`.
        offset: causal models only: how many positions `kv` stands for; real tokens are numbered from here on.
        infix: causal models only: `kv` stands between input and target, so that of the input only the last token, which
            predicts the target's first, attends to it.
        lengths: where rows have prompts of different lengths: of each stack's P keys and values, how many are the
            row's, [B]. They are the last ones; what stands before them is not attended to. A stack that is not named
            has P for every row.
        offsets: where they differ, each row's `offset`, [B].
        infixes: where they differ, each row's `infix`, [B].

    A leading batch axis on tokens, keys and values gives each row of the batch its own prompt.
    """

    tokens: jax.Array | None = None  # Float[Array, "*B P E"]
    kv: Mapping[str, tuple[jax.Array, jax.Array]] = struct.field(default_factory=dict)
    offset: int = struct.field(pytree_node=False, default=0)
    infix: bool = struct.field(pytree_node=False, default=False)
    lengths: Mapping[str, jax.Array] = struct.field(default_factory=dict)
    offsets: jax.Array | None = None  # Int[Array, "B"]
    infixes: jax.Array | None = None  # Bool[Array, "B"]
