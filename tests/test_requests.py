"""What lines of a file ask, and which of them share a batch."""

import json

import numpy as np
import pytest

from jaxprompt.serving.answer_config import AnswerConfig, per_prompt
from jaxprompt.serving.grouping import group_rows, round_up
from jaxprompt.serving.requests import RequestError, read_request
from jaxprompt.serving.saved_prompts import common_model, identities, named

TEMPLATES = {"sst2": ("sentence",), "rte": ("premise", "hypothesis"), "plain": ("input", "hint"), "none": ()}


def read(record, templates=TEMPLATES):
    return read_request(record if isinstance(record, bytes) else json.dumps(record).encode(), templates, "here")


@pytest.mark.parametrize(
    ("record", "fields", "carried"),
    [
        ({"prompt": "sst2", "input": "good", "id": 7}, {"sentence": "good"}, {"prompt": "sst2", "id": 7}),
        ({"prompt": "sst2", "input": {"sentence": "good"}}, {"sentence": "good"}, {"prompt": "sst2"}),
        (
            {"idx": 3, "premise": "a", "hypothesis": "b", "prompt": "rte", "label": 1},
            {"premise": "a", "hypothesis": "b"},
            {"idx": 3, "prompt": "rte", "label": 1},
        ),
        ({"prompt": "rte", "input": {"hypothesis": "b", "premise": ""}}, {"premise": "", "hypothesis": "b"}, None),
        ({"prompt": "plain", "input": "x", "hint": "y"}, {"input": "x", "hint": "y"}, {"prompt": "plain"}),
        ({"prompt": "none", "n": [1, {"a": None}]}, {}, {"prompt": "none", "n": [1, {"a": None}]}),
    ],
)
def test_a_line_gives_its_templates_fields_and_carries_the_rest(record, fields, carried):
    request = read(record)
    assert (request.prompt, request.place) == (record["prompt"], "here")
    assert request.fields == fields
    assert request.carried == (carried or {"prompt": record["prompt"]})
    assert list(request.carried) == [key for key in record if key in request.carried]


def test_a_single_prompt_need_not_be_named_and_choices_are_the_lines_own():
    request = read({"sentence": "good", "choices": ["yes", "no"]}, {"sst2": ("sentence",)})
    assert (request.prompt, request.choices, request.carried) == ("sst2", ("yes", "no"), {})
    assert read(b'\xef\xbb\xbf{"prompt": "sst2", "input": "\xc3\xa9"}\r\n').fields == {"sentence": "é"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'{"prompt": "sst2", "inp', "not JSON in UTF-8 (Unterminated string"),
        (b'{"prompt": "sst2", "input": "\xff"}', "not JSON in UTF-8 ('utf-8' codec"),
        (b'{"prompt": "sst2", "input": "\\ud83d"}', "surrogates not allowed"),
        (b'{"prompt": "sst2", "input": "a", "x": NaN}', "NaN is no JSON"),
        (b"[" * 100_000, "not JSON in UTF-8 ("),
        ([1], "expected an object such as"),
        ({"input": "a"}, "it names no prompt; add 'prompt', one of ['sst2', "),
        ({"prompt": "sts2", "input": "a"}, "there is no prompt 'sts2'; near are ['sst2']"),
        ({"prompt": "zzz", "input": "a"}, "there are ['sst2', 'rte', 'plain', 'none']"),
        ({"prompt": 5, "input": "a"}, "field 'prompt' should be text, got int"),
        ({"prompt": "sst2", "input": 5}, "field 'input' should be text, got int"),
        ({"prompt": "rte", "input": "a"}, 'write "input": {"premise": "…", "hypothesis": "…"}'),
        ({"prompt": "rte", "premise": "a"}, "of which ['hypothesis'] are missing"),
        ({"prompt": "rte", "input": {"premise": "a", "hypothesis": None}}, "field 'hypothesis' should be text"),
        ({"prompt": "sst2", "input": "a", "choices": []}, "'choices' needs at least one text"),
        ({"prompt": "sst2", "input": "a", "choices": "yes"}, "field 'choices' should be a list of texts"),
        ({"prompt": "sst2", "input": "a", "score": 1}, "the keys ['score'] are the answer's own"),
    ],
)  # fmt: skip
def test_a_bad_line_says_what_is_wrong(record, message):
    with pytest.raises(RequestError) as caught:
        read(record)
    assert message in str(caught.value)


def test_what_a_bad_line_carries_is_known_where_it_can_be_read():
    with pytest.raises(RequestError) as caught:
        read({"id": 4, "prompt": "sts2", "input": "a"})
    assert caught.value.carried == {"id": 4, "prompt": "sts2"}


def test_every_row_is_in_one_group_of_its_kind_and_of_like_lengths():
    rng = np.random.default_rng(0)
    lengths, keys = rng.integers(1, 300, 1000).tolist(), rng.choice(["a", "b", "c"], 1000, p=[0.7, 0.29, 0.01]).tolist()
    groups = list(group_rows(keys, lengths, 32, parts=2))
    assert sorted(row for group in groups for row in group.rows) == list(range(1000))
    for group in groups:
        assert {keys[row] for row in group.rows} == {group.key}
        assert max(lengths[row] for row in group.rows) <= group.length
        assert len(group.filled) == group.size <= 32
        assert group.size % 2 == 0
        assert set(group.filled) == set(group.rows)
    assert groups == list(group_rows(keys, lengths, 32, parts=2))
    padding = sum(group.size * group.length for group in groups) - sum(lengths)
    in_order = sum(32 * max(lengths[start : start + 32]) for start in range(0, 1000, 32)) - sum(lengths)
    assert padding < in_order / 3
    assert len({(group.key, group.size, group.length) for group in groups}) <= 40


def test_a_rare_kind_does_not_fill_a_batch():
    (group,) = group_rows(["a"] * 3, [5, 9, 7], 64)
    assert (group.rows, group.size, group.length) == ((0, 2, 1), 4, 16)
    assert [group.size for group in group_rows(["a"] * 70, [5] * 70, 64)] == [8, 64]
    assert list(group_rows([], [], 64)) == []


def test_lengths_are_rounded_to_eight_steps_an_octave():
    assert [round_up(length) for length in (1, 8, 9, 33, 64, 65, 128, 129, 257, 512, 513)] == [
        8, 8, 16, 40, 64, 72, 128, 144, 288, 512, 576,
    ]  # fmt: skip
    assert all(length <= round_up(length) <= max(length * 1.125, length + 7) for length in range(1, 3000))


def test_flags_for_all_prompts_and_for_one():
    names = ("rte", "e2e", "a=b")
    assert per_prompt(["greedy", "e2e=beam", "a=b=rank"], names, "--method") == {
        "rte": "greedy", "e2e": "beam", "a=b": "rank",
    }  # fmt: skip
    assert per_prompt(["e2e=64"], names, "--max", int) == {"e2e": 64}
    for entries, message in (
        (["rts=beam"], "given for 'rts', but there is no such prompt"),
        (["1", "2"], "given twice for all prompts"),
        (["rte=1", "rte=2"], "given twice for the prompt 'rte'"),
        (["rte=many"], "cannot read --max=rte=many: invalid literal"),
    ):
        with pytest.raises(ValueError, match=message):
            per_prompt(entries, names, "--max", int)


@pytest.mark.parametrize("entries", [["runs/rte"], ["=runs/rte"], ["rte="], ["rte=a", "rte=b"]])
def test_prompts_are_named(entries):
    assert named(["rte=gs://bucket/a=b"], "--prompt") == {"rte": "gs://bucket/a=b"}
    with pytest.raises(ValueError, match="--prompt"):
        named(entries, "--prompt")


def test_saved_prompts_are_of_one_model_and_known_by_what_they_are(tmp_path):
    def save(name, model):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompt.json").write_text(json.dumps({"base_model": {"name": model}, "tensors": name}))
        return str(tmp_path / name)

    one, two, other = save("one", "t5-small"), save("two", "t5-small"), save("other", "gpt2")
    assert common_model({"a": one, "b": two}) == "t5-small"
    with pytest.raises(ValueError, match=r"several models: t5-small \('a'\), gpt2 \('c'\); .* --model"):
        common_model({"a": one, "b": two, "c": other})
    saved = identities({"a": one, "b": two, "c": one})["saved"]
    assert saved["a"] == saved["c"] != saved["b"]
    for read in (common_model, identities):
        with pytest.raises(FileNotFoundError, match="is not a saved prompt"):
            read({"a": str(tmp_path)})
    (tmp_path / "one" / "prompt.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot understand"):
        common_model({"a": one})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sample"}, "unknown method 'sample'"),
        ({"method": "beam", "num_beams": 1}, "at least 2 beams"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_input_length": 0}, "max_input_length must be at least 1"),
    ],
)
def test_a_way_to_answer_is_checked(values, message):
    with pytest.raises(ValueError, match=message):
        AnswerConfig(**values)
