"""`predict_file` and `launch/predict.py`: every line is answered as by its prompt alone, in order, once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401
from tiny_families import lms  # noqa: F401

import jaxprompt as jp
from jaxprompt.evaluation.decode import to_texts
from jaxprompt.prompts.store import BaseModel, PromptMeta
from jaxprompt.serving import windows
from jaxprompt.serving.answer_config import AnswerConfig, answer_configs
from jaxprompt.serving.predict import PredictConfig, predict_file
from jaxprompt.serving.requests import RequestError

LABELS = ("positive", "negative", "no")
TEXTS = [text for text, _ in nano.texts(40)]


def prompts_for(lm, seed=0):
    """Prompts of several kinds and lengths, strong enough to change answers."""
    rng, cfg = np.random.default_rng(seed), lm.config
    spread = float(np.std(jax.tree.leaves(lm.params)[0]))

    def soft(length):
        return jp.Injection(rng.normal(0, spread, (length, cfg.d_model)).astype(np.float32))

    depth = cfg.num_layers
    shape = (2, depth, 2, cfg.num_heads, cfg.d_kv)
    prefix = rng.normal(0, 1, shape).astype(np.float32)
    stack = "decoder" if cfg.is_causal else "encoder"
    return {
        "long": (soft(6), "review: {text}"),
        "short": (soft(2), None),
        "pair": (
            soft(4),
            "{premise} {soft:4} {hypothesis}" if cfg.is_causal else "{soft:2} {premise} {soft:2} {hypothesis}",
        ),
        "prefix": (jp.Injection(kv={stack: (prefix[0], prefix[1])}, offset=2 * cfg.is_causal), "{input} was"),
    }


@pytest.fixture(scope="module")
def banks(lms):  # noqa: F811
    # The tiny GPT-2's end of text is the real one's, which its few embeddings do not reach.
    config = dataclasses.replace(lms["gpt2"].config, eos_token_id=1, pad_token_id=0)
    gpt2 = dataclasses.replace(lms["gpt2"], config=config, tokenizer=lms["t5"].tokenizer)
    return {lm.family: jp.PromptBank(lm, prompts_for(lm)) for lm in (lms["t5"], gpt2)}


@pytest.fixture(params=["t5", "gpt2"])
def bank(request, banks):
    return banks[request.param]


def lines_for(count):
    """Lines in turn for every prompt; the ones for `pair` hold their fields themselves."""
    for number in range(count):
        name, text = ("long", "short", "pair", "prefix")[number % 4], TEXTS[number % len(TEXTS)]
        fields = {"premise": text, "hypothesis": "the sea was cold"} if name == "pair" else {"input": text}
        yield {"id": number, "prompt": name} | fields


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def alone(bank, lines, methods):
    """What each line's prompt answers in a model of its own, to all of its lines in one batch."""
    answers = {}
    for name in methods:
        own = [line for line in lines if line["prompt"] == name]
        injection, template = prompts_for(bank.lm)[name]
        model = jp.patch(bank.lm, jp.ExportedPrompt(injection), template)
        params = model.init_params(jax.random.key(0))
        batch = model.encode_text([{"text": line.get("input", "")} | line for line in own])
        if methods[name] == "rank":
            ranks = np.asarray(jp.rank_choices(model, params, batch, LABELS))
            texts, scores = [LABELS[choice] for choice in ranks.argmax(-1)], ranks.max(-1)
        else:
            beams = {"num_beams": 2} if methods[name] == "beam" else {}
            found = jp.generate_scored(model, params, batch, max_new_tokens=5, **beams)
            texts, scores = to_texts(model, np.asarray(found.ids[:, 0])), np.asarray(found.scores[:, 0])
        answers |= {line["id"]: answer for line, answer in zip(own, zip(texts, scores, strict=True), strict=True)}
    return [answers[line["id"]] for line in lines]


def test_each_line_is_answered_as_by_its_prompt_alone(bank, tmp_path):
    methods = {"long": "greedy", "pair": "greedy", "prefix": "rank" if bank.config.is_causal else "beam"}
    lines = [line for line in lines_for(32) if line["prompt"] in methods]
    base = AnswerConfig(max_new_tokens=5, num_beams=2, labels=LABELS)
    answers = {name: dataclasses.replace(base, method=methods.get(name, "greedy")) for name in bank.names}
    config = PredictConfig(8, 32, scores=True)
    counts = predict_file(bank, write(tmp_path / "in", lines), tmp_path / "out", answers, config)
    found = read(tmp_path / "out")
    texts, scores = zip(*alone(bank, lines, methods), strict=True)
    assert [line["prediction"] for line in found] == list(texts)
    np.testing.assert_allclose([line["score"] for line in found], scores, rtol=1e-5, atol=1e-5)
    assert len({round(float(score), 4) for score in scores}) > 20  # each line has an answer of its own
    assert [(line["id"], line["prompt"], len(line)) for line in found] == [
        (line["id"], line["prompt"], 4) for line in lines
    ]
    assert counts["by_prompt"] == dict.fromkeys(methods, 8)
    assert (counts["lines"], counts["batches"]) == (24, 3)
    assert 0 < counts["padding_share"] < 0.5
    assert 16 <= counts["new_tokens"] <= 24 * 5


class Died(BaseException):
    """Stands for the end of a process."""


def test_a_killed_process_is_gone_on_from_to_the_last_bit(banks, tmp_path, monkeypatch):
    bank = banks["t5"]
    lines, answers = write(tmp_path / "in", lines_for(30)), answer_configs(bank, max_new_tokens=5)
    config = PredictConfig(batch_size=4, window=8, scores=True)
    predict_file(bank, lines, tmp_path / "calm", answers, config)
    answered = []

    def dies(self, window, throughput, answer=windows.WindowWork.answer):
        if len(answered) == 2:
            raise Died
        answered.append(window)
        return answer(self, window, throughput)

    with monkeypatch.context() as patch:
        patch.setattr(windows.WindowWork, "answer", dies)
        with pytest.raises(Died):
            predict_file(bank, lines, tmp_path / "wild", answers, config)
    with (tmp_path / "wild").open("a") as file:
        file.write('{"id": 16, "pro')
    counts = predict_file(bank, lines, tmp_path / "wild", answers, config)
    assert (tmp_path / "wild").read_bytes() == (tmp_path / "calm").read_bytes()
    assert (counts["lines"], counts["sittings"]) == (30, 2)
    assert predict_file(bank, lines, tmp_path / "wild", answers, config) == counts
    with pytest.raises(ValueError, match="prompts/long/max_new_tokens: there 5, here 6"):
        predict_file(bank, lines, tmp_path / "wild", answer_configs(bank, max_new_tokens=6), config)
    with pytest.raises(ValueError, match="identity"):
        predict_file(bank, lines, tmp_path / "wild", answers, config, identity={"identity": "other"})


BAD = [
    {"id": 0, "prompt": "short", "input": "the sea"},
    {"id": 1, "prompt": "shrt", "input": "the sea"},
    {"id": 2, "prompt": "short", "input": "the sea", "choices": ["a"]},
    {"id": 3, "prompt": "long", "input": "a house"},
]


def test_bad_lines_are_named_or_recorded(banks, tmp_path):
    bank, lines = banks["t5"], write(tmp_path / "in", BAD)
    answers = answer_configs(bank, max_new_tokens=5)
    with pytest.raises(RequestError, match=r"/in, line 2: there is no prompt 'shrt'.*\n.*--on_error=record"):
        predict_file(bank, lines, tmp_path / "out", answers, PredictConfig(4, 8))
    # What was found bad in one sitting may be recorded in the next.
    counts = predict_file(bank, lines, tmp_path / "out", answers, PredictConfig(4, 8, record_errors=True))
    found = read(tmp_path / "out")
    assert [line["id"] for line in found] == [0, 1, 2, 3]
    assert ["prediction" in line for line in found] == [True, False, False, True]
    assert "line 2: there is no prompt 'shrt'" in found[1]["error"]
    assert "line 3: it has choices, but the answers of the prompt 'short' are generated" in found[2]["error"]
    assert (counts["errors"], counts["lines"]) == (2, 4)


def test_a_line_without_room_does_not_spoil_its_window(banks, tmp_path):
    bank = banks["gpt2"]
    limit = bank.config.max_positions
    answers = answer_configs(bank, max_new_tokens=5, max_input_length={"short": limit})
    taken = {"long": 6, "pair": 4, "prefix": 2}
    assert {name: answers[name].max_input_length for name in taken} == {
        name: limit - slots - 5 + 1 for name, slots in taken.items()
    }
    many, one = "sea " * limit, "sea"
    asked = [("short", many), ("short", one), ("long", many), ("short", " "), ("short", f"{one} {one}")]
    lines = write(tmp_path / "in", [{"prompt": name, "input": text} for name, text in asked])
    predict_file(bank, lines, tmp_path / "out", answers, PredictConfig(4, 8, record_errors=True))
    found = read(tmp_path / "out")
    assert ["prediction" in line for line in found] == [False, True, True, False, True]
    assert "line 1: " in found[0]["error"]
    assert f"{limit}" in found[0]["error"]
    assert "is empty, so nothing can predict its target" in found[3]["error"]
    with pytest.raises(ValueError, match="leaves no room for text"):
        answer_configs(bank, max_new_tokens=limit - 3)


def test_answers_are_as_the_prompts_task_has_them(lms):  # noqa: F811
    lm = lms["t5"]
    base = BaseModel.of(lm)
    prompts = {name: (jp.Injection(np.zeros((2, lm.config.d_model), np.float32)), None) for name in ("a", "b", "c")}
    metas = {
        "a": PromptMeta("prompt_tuning", base, labels=LABELS, task="squad"),
        "b": PromptMeta("", base, task="mine"),
    }
    bank = jp.PromptBank(lm, prompts, metas=metas)
    answers = answer_configs(bank, method={"a": "rank"}, max_input_length={"b": 7})
    assert [(answers[n].method, answers[n].max_new_tokens, answers[n].max_input_length) for n in "abc"] == [
        ("rank", 62, 512), ("greedy", 16, 7), ("greedy", 16, 512),
    ]  # fmt: skip
    assert answers["a"].labels == LABELS
    with pytest.raises(ValueError, match="method is given for 'd', but there is no such prompt"):
        answer_configs(bank, method={"d": "rank"})


CHOICES = [["warm", "cold", "a b c"], ["a b c", "b", "a", "sea"], ["sea", "cold", "warm"]]


def test_a_line_may_bring_its_choices(banks, tmp_path):
    bank, config = banks["t5"], PredictConfig(4, 8, scores=True)
    lines = [{"prompt": "short", "input": "the sea", "choices": choices} for choices in CHOICES]
    answers = answer_configs(bank, method={"short": "rank"})
    predict_file(bank, write(tmp_path / "in", lines), tmp_path / "out", answers, config)
    batch = bank.encode(["short"] * 3, ["the sea"] * 3)
    scores = np.asarray(jp.rank_choices(bank, bank.params, batch, bank.choice_ids(["short"] * 3, CHOICES)))
    for choices, row, found in zip(CHOICES, scores, read(tmp_path / "out"), strict=True):
        assert found["prediction"] == choices[row[: len(choices)].argmax()]
        np.testing.assert_allclose(found["score"], row.max(), rtol=1e-5)
    lines = write(tmp_path / "in", [{"prompt": "short", "input": "the sea"}])
    with pytest.raises(RequestError, match="saved without labels"):
        predict_file(bank, lines, tmp_path / "other", answers)


def test_the_command_killed_and_given_again(tmp_path):
    lm = jp.load_model(nano.model_dir())
    names, flags = ("short", "prefix"), []
    for name in names:
        injection, template = prompts_for(lm)[name]
        jp.save_prompt(
            tmp_path / name, injection, PromptMeta("any", BaseModel.of(lm), template or "{soft:2} {input}", LABELS)
        )
        flags.append(f"--prompt={name}={tmp_path / name}")
    lines = [{"id": n, "prompt": names[n % 2], "input": {"input": TEXTS[n // 2 % 2]}} for n in range(800)]
    flags += [f"--input={write(tmp_path / 'in.jsonl', lines)}", f"--output={tmp_path / 'out.jsonl'}"]
    flags += ["--batch_size=4", "--window=8", "--max_new_tokens=3", "--method=greedy,short=rank", "--scores"]
    process = subprocess.Popen(
        [sys.executable, "launch/predict.py", *flags],
        cwd=nano.ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | nano.environment(),
    )  # fmt: skip
    output, record, deadline = tmp_path / "out.jsonl", tmp_path / "out.jsonl.summary.json", time.monotonic() + 150
    # Lines in the output that the record does not know of yet are made again, and do not count.
    while not (record.exists() and json.loads(record.read_text())["position"]["lines"]):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    assert 0 < len(output.read_bytes().splitlines()) < len(lines)
    done = nano.python("launch/predict.py", *flags)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stderr.splitlines()[-1])
    assert (counts["sittings"], counts["lines"]) == (2, 800)
    bank = jp.PromptBank.load(lm, {name: tmp_path / name for name in names})
    answers = answer_configs(bank, method={"short": "rank"}, max_new_tokens=3)
    predict_file(bank, tmp_path / "in.jsonl", tmp_path / "calm.jsonl", answers, PredictConfig(4, 8, scores=True))
    assert output.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()
