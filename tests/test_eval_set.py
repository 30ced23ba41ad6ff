"""Examples of like length are read together: every one once, in few shapes and little padding."""

import nano
import numpy as np

import jaxprompt as jp
from jaxprompt.data.task_format import Example
from jaxprompt.evaluation.eval_set import encoded_set


def test_rows_of_like_length_share_batches_of_few_shapes():
    task = nano.task({"test": 90})
    model = jp.patch(nano.language_model(), jp.PromptTuning(length=4), task.format.input)
    examples = [*task.examples("test", for_training=False)]
    for number in range(0, 90, 30):  # three that are much longer than the rest
        examples[number] = Example({"text": "the sea was cold and " * 9}, "negative")
    found = encoded_set(model, examples, task.format, batch_size=8)
    batches = list(found.batches)
    index = np.concatenate([batch.index for batch in batches])
    assert sorted(index[index >= 0]) == list(range(90))
    assert (index[:-6] >= 0).all() and (index[-6:] == -1).all()  # noqa: PT018
    lengths = [batch.inputs.shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    assert 1 < len(set(lengths)) <= 4
    real = sum(int((batch.input_segments > 0).sum()) for batch in batches)
    assert real > 0.7 * sum(batch.inputs.size for batch in batches)
    # All in the shape that the longest needs would be mostly padding.
    assert real < 0.5 * len(batches) * 8 * lengths[0]
