"""Targets that begin with the first sentinel though no mask stands in the input (Lester et al. 2021, section 3.2)."""

import dataclasses
import json

import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt.data.features import encode_examples
from jaxprompt.data.template import Template
from jaxprompt.evaluation.decode import to_texts
from jaxprompt.experiment import TaskConfig
from jaxprompt.prompts.exported import ExportedPrompt
from jaxprompt.training.run import run

PLAIN = "hypothesis: {text} premise: {text}"


@pytest.fixture(scope="module")
def models():
    """(without, with) the sentinel, of one model and prompt."""
    lm, method = nano.language_model(), jp.PromptTuning(length=3, init="random")
    return jp.patch(lm, method, PLAIN), jp.patch(lm, method, TaskConfig(target_sentinel=True).template(PLAIN))


def sentinel(model):
    return model.tokenizer.convert_tokens_to_ids("<extra_id_0>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{soft:3} {text}", "{soft:3} {text} {target:sentinel}"),
        ("{text} Answer: {target}", "{text} Answer:  {target:sentinel}"),
        ("{text} {target:sentinel}", "{text} {target:sentinel}"),
        ("{text} Answer: {target} .", "{text} Answer: {target} ."),
        ("{text} <extra_id_0>", "{text} <extra_id_0>"),
    ],
)
def test_a_template_with_the_sentinel(text, expected):
    found = TaskConfig(target_sentinel=True).template(text)
    assert found == expected
    template = Template.parse(found)
    assert template.begins_with_sentinel
    assert str(template) == found
    assert Template.parse(template.without_slots()).begins_with_sentinel
    assert TaskConfig().template(text) == text


def test_where_the_sentinel_has_no_place():
    with pytest.raises(ValueError, match=r"goes on behind \{target:sentinel\}"):
        Template.parse("{a} {target:sentinel} .")
    with pytest.raises(ValueError, match=r"one \{target\} at most"):
        Template.parse("{target} {target:sentinel}")
    with pytest.raises(ValueError, match="which a causal model does not know"):
        Template.parse("{a} {target:sentinel}").check(causal=True)
    assert not Template.parse("{a} {target}").begins_with_sentinel


@pytest.mark.parametrize("max_length", [512, 12], ids=["whole", "cut"])
def test_the_input_is_the_same_and_the_target_begins_with_it(models, max_length):
    fields = {"text": "the sea and the town and the house was cold"}
    batches = [model.encode_text([fields], ["positive"], max_length=max_length) for model in models]
    np.testing.assert_array_equal(batches[0].inputs, batches[1].inputs)
    assert batches[0].inputs.shape[1] <= max_length + 3
    assert sentinel(models[0]) not in batches[1].inputs
    np.testing.assert_array_equal(batches[1].targets, [[sentinel(models[0]), *batches[0].targets[0]]])


def test_decoded_text_is_without_it(models):
    plain, opened = models
    (ids,) = plain.target_ids(["positive"])
    (begun,) = opened.target_ids(["positive"])
    assert begun == [sentinel(plain), *ids]
    assert to_texts(opened, np.array([begun, [*ids, 0]])) == ["positive", "positive"]
    # Who is not told of it has another answer before him.
    assert to_texts(plain, np.array([begun])) != ["positive"]


def test_a_label_needs_a_place_more(models):
    task = nano.task()
    longest = max(len(ids) for ids in models[0].target_ids(nano.LABELS))
    examples = task.examples("train")
    form = dataclasses.replace(task.format, max_target_length=longest)
    plain = [jp.patch(nano.language_model(), jp.PromptTuning(length=3, init="random"), text)
             for text in ("{text}", "{text} {target:sentinel}")]  # fmt: skip
    assert len(encode_examples(examples, plain[0].row_encoder, form)) == len(examples)
    with pytest.raises(ValueError, match=rf"has {longest - 1} tokens and its end"):
        encode_examples(examples, plain[1].row_encoder, form)


def test_a_run_trains_and_saves_with_it(tmp_path):
    asked = nano.experiment(
        task={"target_sentinel": True, "max_target_length": 8},
        train={"steps": 2, "log_every": 1},
        eval={"every": 2, "max_examples": 4},
    )
    run(asked, tmp_path, progress=False)
    # Who loads the prompt elsewhere finds in its template what it was trained with.
    described = json.loads((tmp_path / "prompt/prompt.json").read_text())
    assert described["template"].endswith(" {target:sentinel}")
    injection, meta = jp.load_prompt(tmp_path / "prompt")
    model = jp.patch(nano.language_model(), ExportedPrompt(injection), meta.template)
    assert model.target_start == [sentinel(model)]
