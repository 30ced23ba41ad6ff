import json

import numpy as np
import pytest
from prompted_t5 import CONFIG, Prompted

from jaxprompt.data.sources import Records
from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task
from jaxprompt.data.template import Template
from jaxprompt.evaluation.decode import generate, to_texts
from jaxprompt.evaluation.evaluate import EvalSet, evaluate, score, write_predictions
from jaxprompt.evaluation.ranking import rank_choices
from jaxprompt.types import Batch

COUNT, ROWS, LENGTH = 7, 3, 5
INPUTS = np.random.default_rng(3).integers(2, CONFIG.vocab_size, (COUNT, LENGTH)).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    from transformers import T5TokenizerFast

    words = ["\u2581yes", "\u2581no", "\u2581a", "\u2581b", "\u2581c", "d"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)]
    model = Prompted("none")
    model.tokenizer = T5TokenizerFast(vocab=vocab, extra_ids=2)  # 11 tokens for 12 rows of the embedding table
    assert len(model.tokenizer) == CONFIG.vocab_size - 1
    return model


@pytest.fixture(scope="module")
def params(model):
    return model.init_params(0)


def toy_record(record):
    yield Example({"text": record["text"]}, record["label"])


def task(**changes):
    return TaskFormat(**{"name": "toy", "input": "{text}", "parse": toy_record, "max_target_length": 6, **changes})


def batches(order=range(COUNT)):
    """Batches of the examples in the given order, the last one completed by fillers."""
    order = list(order)
    for start in range(0, len(order), ROWS):
        index = np.array(order[start : start + ROWS] + [-1] * (ROWS - len(order[start : start + ROWS])))
        nothing = np.zeros((ROWS, 1), np.int32)
        yield Batch(INPUTS[index], np.ones((ROWS, LENGTH), np.int32), nothing, nothing, nothing, index)


def whole(**changes):
    ones = np.ones_like(INPUTS)
    return Batch(INPUTS, ones, ones, ones, ones, np.arange(COUNT))


def test_to_texts_keeps_what_is_no_answer(model):
    eos, pad, sentinel = CONFIG.eos_token_id, CONFIG.pad_token_id, model.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    rows = np.array(
        [[3, eos, 4, pad], [5, 8, eos, pad], [sentinel, 3, eos, pad], [11, 3, eos, pad], [eos, 3, pad, pad]]
    )
    texts = to_texts(model, rows)
    assert texts[:2] == ["yes", "ad"]
    assert [text.strip() == "yes" for text in texts[2:4]] == [False, False]
    assert "<extra_id_0>" in texts[2]
    assert texts[4] == ""


@pytest.mark.parametrize("method", ["greedy", "rank"])
def test_every_example_counts_once_and_in_order(model, params, method):
    answer = task(labels=("yes", "no"), metrics=("accuracy",))
    if method == "greedy":
        texts = to_texts(model, np.asarray(generate(model, params, whole(), max_new_tokens=6)))
    else:
        scores = np.asarray(rank_choices(model, params, whole(), ["yes", "no"]))
        texts = [answer.labels[choice] for choice in scores.argmax(-1)]
    assert len(set(texts)) > 1
    right = [True, True, False, True, True, False, True]
    examples = [Example({}, text.strip() or "?" if ok else "wrong") for text, ok in zip(texts, right, strict=True)]
    expected = sum(text.strip() == example.target for text, example in zip(texts, examples, strict=True)) / COUNT
    for order in (range(COUNT), [4, 2, 6, 0, 1, 5, 3]):
        scores = score(model, params, EvalSet(examples, batches(order), answer), method=method)
        assert scores.predictions == texts
        assert scores.values == {"accuracy": pytest.approx(expected)}
        assert scores.num_examples == COUNT
        assert scores.selection == pytest.approx(expected)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6, 6], [0, 1, 2, 3, 4, 5, 5], []])
def test_missing_and_repeated_examples_are_refused(model, params, order):
    with pytest.raises(ValueError, match="batches"):
        score(model, params, EvalSet([Example({}, "yes")] * COUNT, batches(order), task()))


def test_more_rows_than_examples_are_refused(model, params):
    with pytest.raises(ValueError, match=r"numbers \[5, 6\]"):
        score(model, params, EvalSet([Example({}, "yes")] * (COUNT - 2), batches(), task()))


def test_withheld_answers_give_predictions_only(model, params):
    scores = score(model, params, EvalSet([Example({}, "")] * COUNT, batches(), task()))
    assert scores.values == {}
    assert len(scores.predictions) == COUNT
    mixed = [Example({}, "yes"), *[Example({}, "")] * (COUNT - 1)]
    with pytest.raises(ValueError, match="6 of 7"):
        score(model, params, EvalSet(mixed, batches(), task()))


def test_unknown_method_and_rank_without_labels_are_refused(model, params):
    with pytest.raises(ValueError, match="unknown method"):
        score(model, params, EvalSet([], batches(), task()), method="beams")
    with pytest.raises(ValueError, match="no labels"):
        score(model, params, EvalSet([], batches(), task()), method="rank")


@pytest.mark.parametrize("order", [range(COUNT), [4, 2, 6, 0, 1, 5, 3]])
def test_rank_takes_the_likeliest_of_each_examples_own_choices(model, params, order):
    own = [("yes", "a b"), ("no",), ("c", "no", "yes"), ("a", "b"), ("b", "a c", "yes"), ("c", "a"), ("no", "b c")]
    scores = np.asarray(rank_choices(model, params, whole(), list(words := dict.fromkeys(sum(own, ())))))
    likelihood = [dict(zip(words, row, strict=True)) for row in scores]
    expected = [max(choices, key=row.get) for choices, row in zip(own, likelihood, strict=True)]
    examples = [Example({}, choices[0], choices=choices) for choices in own]
    found = score(model, params, EvalSet(examples, batches(order), task()), method="rank")
    assert found.predictions == expected
    assert any(answer != choices[0] for answer, choices in zip(expected, own, strict=True))
    with pytest.raises(ValueError, match="1 of 7 examples have no choices, such as number 6"):
        score(model, params, EvalSet([*examples[:6], Example({}, "x")], batches(), task()), method="rank")


def test_predictions_file(tmp_path):
    examples = [Example({"text": "é"}, "yes"), Example({"text": "b"}, "x", ("x", "y"))]
    path = tmp_path / "new" / "predictions.jsonl"
    write_predictions(path, ["no", "y"], examples)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {"index": 0, "prediction": "no", "answers": ["yes"], "fields": {"text": "é"}},
        {"index": 1, "prediction": "y", "answers": ["x", "y"], "fields": {"text": "b"}},
    ]


def test_evaluate_reads_a_task(model, params, tmp_path):
    rows = [{"text": " ".join(["a b c"] * (1 + 2 * number % 3)), "label": "yes"} for number in range(9)]
    toy = task(labels=("yes", "no"), parse=toy_record)
    source = Task(toy, "memory", _openers={"validation": lambda: Records("memory", rows)})
    model.template = Template.parse("{text}")
    path = tmp_path / "predictions.jsonl"
    scores = evaluate(model, params, source, "validation", batch_size=4, method="rank", predictions_path=path)
    one_by_one = [evaluate_alone(model, params, row["text"], toy.labels) for row in rows]
    assert scores.predictions == one_by_one
    assert scores.values == {"accuracy": pytest.approx(one_by_one.count("yes") / 9)}
    written = [json.loads(line)["fields"]["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert written == [row["text"] for row in rows]
    few = evaluate(model, params, source, batch_size=4, method="rank", max_examples=5)
    assert few.predictions == one_by_one[:5]
    with pytest.raises(ValueError, match="no split 'test'"):
        evaluate(model, params, source, "test")


def evaluate_alone(model, params, text, labels):
    ids = np.array([model.tokenizer(text).input_ids], np.int32)
    ones = np.ones_like(ids)
    scores = rank_choices(model, params, Batch(ids, ones, ones, ones, ones, np.arange(1)), list(labels))
    return labels[int(np.argmax(scores))]
