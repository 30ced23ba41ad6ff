"""MultiRC, ReCoRD and WSC: several examples a record, groups, references, and pronouns that have to be found."""

import dataclasses
import json

import pytest
from superglue_release import NEWS, PUBLISHED, pronoun, questions

from jaxprompt.data.tasks import FORMATS, load_task


def read(name, split, tmp_path, rows=None):
    lines = "".join(json.dumps(row) + "\n" for row in rows or PUBLISHED[name][1])
    (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return load_task(name, f"jsonl:{tmp_path}").examples(split)


def test_multirc_is_read_by_answer_and_judged_by_question(tmp_path):
    examples = read("multirc", "validation", tmp_path)
    assert [(one.target, one.group) for one in examples] == [
        ("False", "3/7"),
        ("True", "3/7"),
        ("True", "3/8"),
        ("False", "4/9"),
    ]
    assert examples[1].fields == {"question": "Which 7?", "answer": "No. 1", "paragraph": "Sent 1: A. "}


def test_record_trains_on_each_answer_and_asks_each_query_once(tmp_path):
    fields = {"entities": "Ana, Bo, Rome", "passage": "Ana met Bo in Rome. Bo wept. Ana left"}
    train = read("record", "train", tmp_path)
    assert [(one.fields["query"].split()[1], one.target) for one in train] == [
        ("wept", "Bo"),
        ("met", "Ana"),
        ("met", "Bo"),
    ]
    asked = read("record", "validation", tmp_path)
    assert [(one.fields["query"].split()[1], one.references or one.target) for one in asked] == [
        ("wept", "Bo"),
        ("met", ("Ana", "Bo")),
    ]
    assert all({**one.fields, "query": ""} == {**fields, "query": ""} for one in (*train, *asked))
    assert {one.choices for one in asked} == {("Ana", "Bo", "Rome")}
    # Two queries in the same words stay two.
    (passage,) = PUBLISHED["record"][1]
    twice = {**passage, "qas": [{**passage["qas"][0], "idx": number} for number in (0, 1)]}
    assert len(read("record", "validation", tmp_path, [twice])) == 2


def test_wsc_trains_on_right_candidates_and_asks_about_all(tmp_path):
    assert [(one.fields["text"], one.target) for one in read("wsc", "train", tmp_path)] == [
        ("Una told Ivo that *she* had won.", "Una"),
        ("Bo lost the mug because *It* broke .", "the mug"),
    ]
    asked = read("wsc", "validation", tmp_path)
    assert [(one.target, one.wrong) for one in asked] == [
        ("Una", False),
        ("Ivo", True),
        ("the mug", False),
        ("the old oak", True),
    ]
    assert asked[3].fields["text"] == "Here the old oak grew until *it* fell ."
    lazy = dataclasses.replace(load_task("wsc", f"jsonl:{tmp_path}"), eager_records=1)
    with pytest.raises(ValueError, match="gives 0 examples"):
        lazy.examples("train")[1]


@pytest.mark.parametrize(
    ("text", "index", "marked"),
    [
        ("It fell .", 0, "*It* fell ."),
        ("Bo said that It, too, fell .  ", 3, "Bo said that *It* , too, fell ."),
        ("It was odd that one saw It fall", 5, "It was odd that one saw *It* fall"),
        ("It was odd that one saw It fall", 2, "*It* was odd that one saw It fall"),
    ],
)
def test_wsc_finds_the_pronoun_at_or_near_its_place(text, index, marked):
    (example,) = FORMATS["wsc"].parse(pronoun(0, text, "It", "It", (0, index), True))
    assert example.fields["text"] == marked


@pytest.mark.parametrize(
    ("text", "index", "message"),
    [("Bo Items fell", 1, "'It' is none of the words"), ("It fell", 2, "no word number 2"), ("It fell", -1, "-1")],
)
def test_wsc_without_its_pronoun(text, index, message):
    with pytest.raises(ValueError, match=message):
        list(FORMATS["wsc"].parse(pronoun(0, text, "It", "It", (0, index), True)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("multirc", {"passage": "flat"}, "idx"),
        ("multirc", {"passage": {"text": 1, "questions": [questions(0, 1)]}, "idx": 0}, "should be text, got int"),
        ("record", {"passage": NEWS, "idx": {"passage": 0, "query": 0}}, "query"),
        (
            "record",
            {"passage": NEWS, "idx": {"passage": 0, "query": 0}, "query": "q", "entities": "Bo"},
            "list of texts",
        ),
    ],
)
def test_records_of_another_shape(tmp_path, name, change, message):
    row = {key: value for key, value in PUBLISHED[name][1][0].items() if key != "idx"} | change
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=f"train.jsonl, line 1 is no example of '{name}': .*{message}"):
        load_task(name, f"jsonl:{tmp_path}")
