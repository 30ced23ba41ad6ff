"""Features: examples of a task as rows of ids, all at once or when they are asked for."""

import numpy as np
import pytest
from test_pipeline import assert_same, take
from transformers import ByT5Tokenizer

from jaxprompt.data.batching import make_batch
from jaxprompt.data.features import Feature, LazyFeatures, encode_examples
from jaxprompt.data.pipeline import eval_batches, train_batches
from jaxprompt.data.row_encoder import RowEncoder
from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.template import Template

TOKENIZER = ByT5Tokenizer()
FORMAT = TaskFormat("t", "{text}", lambda record: [], labels=("yes", "no"), max_input_length=12, max_target_length=5)
TEMPLATE = Template.parse("{soft:2} {text}")


def encode(examples, format=FORMAT, template=TEMPLATE, **options):
    return encode_examples(examples, RowEncoder(template, TOKENIZER, 500, TOKENIZER.eos_token_id), format, **options)


def test_features_are_template_and_target():
    examples = [Example({"text": "abc"}, "yes"), Example({"text": "a" * 30}, "no"), Example({"text": "d"}, "")]
    features = encode(examples)
    assert features[0].input_ids.tolist() == [500, 501, *TOKENIZER("abc").input_ids]
    assert features[0].target_ids.tolist() == TOKENIZER("yes").input_ids
    assert features[1].input_ids.tolist() == [500, 501, *TOKENIZER("a" * 11).input_ids]
    assert features[2].target_ids.tolist() == [TOKENIZER.eos_token_id]
    assert [feature.labelled for feature in features] == [True, True, False]
    assert [feature.index for feature in features] == [0, 1, 2]
    (batch,) = eval_batches(features, batch_size=3, pad_id=0)
    assert batch.target_weights.sum(axis=1).tolist() == [4, 3, 0]
    with pytest.raises(ValueError, match="example 2 has no target"):
        train_batches(features, batch_size=3, seed=0, pad_id=0)


def test_large_sets_are_encoded_lazily_and_alike():
    examples = [Example({"text": "x" * (n % 17)}, "yes" if n % 3 else "no") for n in range(30)]
    eager, lazy = encode(examples), encode(examples, cache_limit=29)
    assert isinstance(eager, list)
    assert isinstance(lazy, LazyFeatures)
    assert lazy.max_lengths == (14, 5)
    options = {"batch_size": 4, "seed": 0, "pad_id": 0, "buckets": (8, 16), "target_buckets": 5}
    assert_same(take(train_batches(lazy, **options), 20), take(train_batches(eager, **options), 20))
    default = take(train_batches(lazy, batch_size=4, seed=0, pad_id=0), 5)
    assert all(batch.inputs.shape[1] in (8, 16) and batch.targets.shape[1] == 5 for batch in default)


def test_what_cannot_be_encoded_is_named():
    with pytest.raises(ValueError, match="no examples of 't'"):
        encode([])
    with pytest.raises(ValueError, match=r"unknown fields \['nope'\]; known are \['text'\]"):
        encode([Example({"text": "a"}, "yes")], template=Template.parse("{nope}"))
    free_text = TaskFormat("t", "{text}", lambda record: [], max_target_length=3)
    assert encode([Example({"text": "a"}, "long")], free_text)[0].target_ids.tolist() == TOKENIZER("lo").input_ids
    long = TaskFormat("t", "{text}", lambda record: [], labels=("maybe",), max_target_length=5)
    with pytest.raises(ValueError, match="'maybe' has 5 tokens"):
        encode([Example({"text": "a"}, "maybe")], long)


def test_make_batch_marks_missing_numbers():
    batch = make_batch([Feature(np.array([5]), np.array([6]))], pad_id=9, length=2, target_length=2)
    assert batch.inputs.tolist() == [[5, 9]]
    assert batch.targets.tolist() == [[6, 9]]
    assert batch.index.tolist() == [-1]
