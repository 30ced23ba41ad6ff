"""Training batches of a task, or of a mixture of tasks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from jaxprompt.data.features import encode_examples
from jaxprompt.data.mixture import Mixture, mixing_rates
from jaxprompt.data.packed_shapes import Packing
from jaxprompt.data.pipeline import TrainBatches, train_batches
from jaxprompt.data.tasks import Task
from jaxprompt.patching import PatchedModel
from jaxprompt.sharding import DATA, data_share
from jaxprompt.training.row_cost import row_cost


def task_batches(
    model: PatchedModel,
    task: Task | Mixture,
    split: str,
    *,
    batch_size: int,
    seeds: Sequence[int],
    max_examples: int = 0,
    packing: str = "auto",
    accumulate: int = 1,
) -> tuple[list[TrainBatches], int]:
    """Training batches without end, for each seed a stream in an order of its own.

    Args:
        model: a patched model whose template reads the fields of the task's examples.
        task: what is trained on; of a mixture, each task as often as `mixing_rates` says.
        split: the split, of each task.
        batch_size: examples of the global batch.
        seeds: of the orders.
        max_examples: the first so many of the split, of each task; 0: all.
        packing: whether examples share rows, see `TrainConfig`.
        accumulate: parts that a batch is read in.

    Returns:
        The streams, and how many examples an epoch has; a mixture's has min(e_m, K) of task m.

    Raises:
        ValueError: there is no such split, it is empty, or an example has no target.
    """
    tasks = list(task.tasks.values()) if isinstance(task, Mixture) else [task]
    found = [(each.examples(split, for_training=True), each.format) for each in tasks]
    if max_examples:
        found = [(examples[:max_examples], format) for examples, format in found]
    features = [encode_examples(examples, model.row_encoder, format) for examples, format in found]
    counts = [len(rows) for rows in features]
    limit = task.limit if isinstance(task, Mixture) else 0
    share, processes = data_share(model.mesh)
    parts = accumulate * (1 if model.mesh is None else model.mesh.shape[DATA])
    packed = Packing(functools.partial(row_cost, model), parts, always=packing == "always")
    streams = [
        train_batches(
            features if limit else features[0],
            weights=mixing_rates(counts, limit) if limit else None,
            batch_size=batch_size,
            seed=seed,
            pad_id=model.config.pad_token_id,
            packing=None if packing == "never" else packed,
            process_index=share,
            process_count=processes,
        )
        for seed in seeds
    ]
    return streams, sum(min(count, limit) for count in counts) if limit else counts[0]
