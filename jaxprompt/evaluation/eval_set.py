"""Examples that are encoded once, for any number of evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jaxprompt.data.batching import choose_lengths
from jaxprompt.data.features import encode_examples
from jaxprompt.data.pipeline import eval_batches
from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task
from jaxprompt.sharding import whole_rows
from jaxprompt.types import Batch

if TYPE_CHECKING:
    from jaxprompt.patching import PatchedModel


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """The examples of a split, ready for a model; made by `eval_set`, and good for many evaluations.

    Attributes:
        examples: the examples, by number.
        batches: their rows in any order; `index` is the number of a row's example, -1 a filler.
        format: names the metrics, the labels and the length of the answers.
    """

    examples: Sequence[Example]
    batches: Iterable[Batch]
    format: TaskFormat


def eval_set(
    model: PatchedModel, task: Task, split: str, *, batch_size: int = 64, max_examples: int | None = None
) -> EvalSet:
    """Encodes a split once, for any number of calls of `score`; arguments and errors as for `evaluate`."""
    examples = task.examples(split, for_training=False)
    if max_examples is not None:
        examples = examples[:max_examples]
    return encoded_set(model, examples, task.format, batch_size=batch_size)


def encoded_set(
    model: PatchedModel, examples: Sequence[Example], format: TaskFormat, *, batch_size: int = 64
) -> EvalSet:
    """Encodes examples for any number of calls of `score`.

    Args:
        model: a patched model whose template reads the examples' fields.
        examples: in the order of their numbers.
        format: names the metrics, the labels and the lengths.
        batch_size: rows decoded at once.

    Raises:
        ValueError: there are none, or the template does not fit them.
    """
    features = encode_examples(examples, model.row_encoder, format, for_generation=True)
    rows, buckets = whole_rows(batch_size, model.mesh), None
    if isinstance(features, list):
        # Rows of like length share batches, so short ones are padded little; the numbers they carry restore the order.
        # The shortest come last, for the last batch is filled up with copies.
        features = sorted(features, key=lambda feature: -len(feature.input_ids))
        longest = [-(-len(feature.input_ids) // 8) * 8 for feature in features[::rows]]
        buckets = choose_lengths(longest, float, count=4)
    batches = eval_batches(features, batch_size=rows, pad_id=model.config.pad_token_id, buckets=buckets)
    return EvalSet(examples, batches, format)
