"""Prompt design: what stands in a few-shot text, what is left out of it, and a run without training."""

import dataclasses
import json
import os

import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt.data.plain_text import plain_text
from jaxprompt.data.tasks import load_task
from jaxprompt.data.template import Template
from jaxprompt.evaluation.evaluate import score
from jaxprompt.evaluation.few_shot import draw_shots, few_shot_model, few_shot_set
from jaxprompt.prompts.prompt_design import PromptDesign
from jaxprompt.training.run import run


@pytest.mark.parametrize(
    ("template", "asked", "answered"),
    [
        ("review: {text}", "review: good", "review: good yes"),
        ("{text} Is it? Answer: {target}", "good Is it? Answer:", "good Is it? Answer: yes"),
        ("{text}{target}", "good", "goodyes"),
        ("{{{text}}}", "{good}", "{good} yes"),
    ],
)
def test_a_template_as_plain_text(template, asked, answered):
    parsed = Template.parse(template)
    assert plain_text(parsed, {"text": "good"}) == asked
    assert plain_text(parsed, {"text": "good"}, "yes") == answered


@pytest.mark.parametrize(
    ("template", "message"),
    [("{soft:3} {text}", "3 virtual tokens, which no text"), ("{text} {target} .", "its target as a mask")],
)
def test_a_template_that_is_no_plain_text(template, message):
    with pytest.raises(ValueError, match=message):
        few_shot_model(nano.language_model(), template)


def test_examples_are_drawn_once_and_fewer_are_the_first_of_more():
    task = nano.task()
    four, six = (draw_shots(task, "train", count, seed=1) for count in (4, 6))
    assert six[:4] == four
    assert len({shot.fields["text"] for shot in six}) == 6
    assert draw_shots(task, "train", 4, seed=2) != four
    few = task.examples("train")[:5]
    assert all(shot in few for shot in draw_shots(task, "train", 5, seed=1, max_examples=5))
    with pytest.raises(ValueError, match=r"split 'train' of toy has 24 solved examples, not 25; lower prompt\.shots"):
        draw_shots(task, "train", 25, seed=1)


def rows_of(data, model):
    """The input text of each row, by example."""
    found = {}
    for batch in data.batches:
        for ids, segments, index in zip(batch.inputs, batch.input_segments, batch.index, strict=True):
            if index >= 0:
                found[int(index)] = model.tokenizer.decode(ids[segments > 0], skip_special_tokens=True)
    return [found[number] for number in range(len(found))]


def plainly(text, model):
    """A text as it comes back from this tokenizer."""
    return model.tokenizer.decode(model.tokenizer(text)["input_ids"], skip_special_tokens=True)


def test_solved_examples_stand_before_the_question():
    task, model = nano.task(), few_shot_model(nano.language_model(), "review: {text}")
    shots = draw_shots(task, "train", 2, seed=0)
    data, used = few_shot_set(model, task, "validation", shots, batch_size=4)
    before = " ".join(f"review: {shot.fields['text']} {shot.target}" for shot in shots)
    wanted = [plainly(f"{before} review: {example.fields['text']}", model) for example in task.examples("validation")]
    assert used == 2
    assert rows_of(data, model) == wanted
    assert data.format.labels == nano.LABELS


@pytest.mark.parametrize("room", range(12, 60, 7))
def test_what_has_no_room_is_left_out_and_the_question_stays_whole(room):
    task = nano.task()
    task = dataclasses.replace(task, format=dataclasses.replace(task.format, max_input_length=room))
    model = few_shot_model(nano.language_model(), "review: {text}")
    shots = draw_shots(task, "train", 6, seed=0)
    data, used = few_shot_set(model, task, "validation", shots)
    for text, example in zip(rows_of(data, model), task.examples("validation"), strict=True):
        question = plainly(f"review: {example.fields['text']}", model)
        size = len(model.tokenizer(question)["input_ids"])
        assert text.endswith(question) or size > room
        assert text.count("review:") == 1 or len(model.tokenizer(text)["input_ids"]) <= room
    assert 0 <= used <= 6
    if room > 50:
        assert used > 1


def test_without_examples_it_is_the_bare_model_with_a_hard_prompt():
    task, lm = nano.task(), nano.language_model()
    model = few_shot_model(lm, "Is it good? {text} Answer:")
    data, used = few_shot_set(model, task, "validation", [], max_examples=4)
    bare = jp.patch(lm, jp.ModelTuning(), "Is it good? {text} Answer:")
    params = {"model": lm.params}
    assert used == 0
    expected = jp.evaluate(bare, params, task, method="rank", max_examples=4)
    assert score(model, params, data, method="rank").predictions == expected.predictions


def test_a_causal_model_keeps_room_for_its_answer():
    lm = jp.load_model("nano-gpt2")
    task = load_task(source="mini:sentiment")
    format = dataclasses.replace(task.format, max_input_length=100_000, max_target_length=8)
    task = dataclasses.replace(task, format=format)
    model = few_shot_model(lm, "review: {review}")
    shots = draw_shots(task, "train", 64, seed=0)
    data, used = few_shot_set(model, task, "validation", shots, max_examples=4)
    longest = max(int(np.max(np.sum(batch.input_segments > 0, axis=1))) for batch in data.batches)
    assert 0 < used < 64
    assert longest + task.format.max_target_length - 1 <= lm.config.max_positions
    assert "\n\nreview:" in rows_of(data, model)[0]


@pytest.mark.parametrize("shots", [(), (-1, 2)])
def test_numbers_of_examples_that_cannot_be(shots):
    with pytest.raises(ValueError, match=r"prompt\.shots is"):
        PromptDesign(shots)


def test_a_run_trains_nothing_and_keeps_the_best_text(tmp_path):
    experiment = nano.experiment(
        prompt={"method": "prompt_design", "shots": [2, 0, 1]},
        task={"test_split": "test", "max_input_length": 48},
        eval={"method": "rank", "max_examples": 4, "batch_size": 4},
    )
    report = run(experiment, tmp_path, progress=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert sorted(os.listdir(tmp_path)) == ["config.json", "metrics.jsonl", "summary.json", "text_prompt"]
    assert summary["scores"].keys() == {"no prompt", "hard prompt", "few-shot"}
    assert (summary["num_trainable"], summary["step"], summary["split"]) == (0, 0, "test")
    tried = {int(count): found["values"]["accuracy"] for count, found in summary["shots"].items()}
    assert list(tried) == [0, 1, 2]
    assert summary["best"]["values"]["accuracy"] == max(tried.values()) == tried[summary["best"]["shots"]]
    assert [(event["step"], event["values"]["accuracy"]) for event in nano.events(tmp_path)] == sorted(tried.items())
    kept = json.loads((tmp_path / "text_prompt/text_prompt.json").read_text())
    assert kept["question"] == "Is this text positive or negative? {review}"
    assert len(kept["examples"]) == kept["shots"] == summary["best"]["shots"]
    assert "solved examples" in report
    assert "learning curve" not in report
    assert run(experiment, tmp_path, progress=False) == report
