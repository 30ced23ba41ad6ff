"""Texts and metric values of the published tasks are those of the t5 package (tests/golden/make_t5_tasks.py)."""

import json
from pathlib import Path

import pytest

from jaxprompt.data.sources import Records
from jaxprompt.data.tasks import FORMATS, Task
from jaxprompt.data.template import Template
from jaxprompt.data.transfer import in_words_of
from jaxprompt.evaluation import metrics

GOLDEN = json.loads((Path(__file__).parent / "golden" / "t5_tasks.json").read_text(encoding="utf-8"))
NAMES = {"em": "exact_match", "mean_3class_f1": "mean_f1"}  # t5's for ours, where they differ


def named(rows):
    return [pytest.param(row, id=f"{row['task']}-{number}") for number, row in enumerate(rows)]


def examples_of(name, records, *, for_training):
    task = Task(FORMATS[name], "golden", _openers={"any": lambda: Records("golden", records)})
    return task.examples("any", for_training=for_training)


def test_every_task_is_held_against_t5():
    texts, values = ({row["task"] for row in GOLDEN[part]} for part in ("texts", "metrics"))
    same_texts_as_another = {name for name in FORMATS if name.startswith("mrqa_")}
    text_to_text = {name for name, format in FORMATS.items() if format.metrics[0] not in metrics.TEXT_METRICS}
    assert texts | same_texts_as_another == text_to_text
    assert {metric for name in values for metric in FORMATS[name].metrics} == {
        metric for name in text_to_text for metric in FORMATS[name].metrics
    }


@pytest.mark.parametrize("golden", named(GOLDEN["texts"]))
def test_texts_are_t5s(golden):
    format = FORMATS[golden["task"]]
    examples = list(format.parse(golden["record"]))
    (run,) = Template.parse(format.input).parts
    assert {run.render(example.fields) for example in examples} == {golden["inputs"]}
    if golden["record"].get("label") == -1 or golden["targets"] == ["<unk>"]:
        assert [example.target for example in examples] == [""]
        return
    assert [example.target for example in examples] == golden["targets"]
    if golden["references"]:
        (asked,) = examples_of(golden["task"], [golden["record"]], for_training=False)
        assert list(asked.references or (asked.target,)) == golden["references"]


@pytest.mark.parametrize("golden", named(GOLDEN["metrics"]))
def test_values_are_t5s(golden):
    format = FORMATS[golden["task"]]
    examples = examples_of(golden["task"], golden["records"], for_training=False)
    values = metrics.score(format.metrics, golden["predictions"], examples, format.labels)
    expected = {NAMES.get(name, name): value / 100 for name, value in golden["percent"].items()}
    assert values == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("asked", "trained"), [("mrpc", "qqp"), ("qqp", "mrpc")])
def test_pairs_asked_of_a_prompt_for_the_other_task_score_as_their_own(asked, trained):
    (golden,) = (row for row in GOLDEN["metrics"] if row["task"] == asked)
    records = {"any": lambda: Records("golden", golden["records"])}
    crossed = in_words_of(Task(FORMATS[asked], "golden", _openers=records), FORMATS[trained])
    words = dict(zip(FORMATS[asked].labels, FORMATS[trained].labels, strict=True))
    predictions = [words.get(text, text) for text in golden["predictions"]]
    format = crossed.format
    values = metrics.score(format.metrics, predictions, crossed.examples("any", for_training=False), format.labels)
    assert values == pytest.approx({name: value / 100 for name, value in golden["percent"].items()})
