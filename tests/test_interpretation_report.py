"""Prompts opened, looked into and put on a page: what stands there, and that a browser shows it."""

import html.parser
import json
import re
import shutil
import subprocess

import nano
import numpy as np
import pytest
import t5_files

import jaxprompt as jp
from jaxprompt.interpretation import drawing, opened
from jaxprompt.interpretation.markup import Markup, element, table
from jaxprompt.interpretation.opened import Models, open_prompts
from jaxprompt.interpretation.page import to_html
from jaxprompt.interpretation.report import interpret
from jaxprompt.interpretation.summary import to_text
from jaxprompt.models.load import CheckpointError
from jaxprompt.prompts.store import BaseModel, PromptMeta, PromptMismatch
from jaxprompt.types import Injection

CURVE = [{"step": step, "split": "train", "values": {"loss": 50.0 / step, "grad_norm": 1.0}} for step in range(1, 30)]
CURVE += [{"step": step, "split": "validation", "values": {"accuracy": 0.5 + step / 90}} for step in (10, 20, 29)]


def write_run(directory, lm, tokens, **prompt):
    """A run's directory with what a report reads of it."""
    meta = PromptMeta("prompt_tuning", BaseModel.of(lm), labels=("negative", "positive"), task="sentiment",
                      score={"accuracy": 0.875})  # fmt: skip
    jp.save_prompt(directory / "prompt", Injection(tokens=tokens), meta)
    (directory / "config.json").write_text(json.dumps({"prompt": {"method": "prompt_tuning", "init": ""} | prompt}))
    (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, CURVE)))
    return directory


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_lm):
    """Two runs, a prefix and an array file, by name."""
    root, rng = tmp_path_factory.mktemp("prompts"), np.random.default_rng(7)
    vocabulary, table = tiny_lm.tokenizer.get_vocab(), np.asarray(tiny_lm.embedding_table)
    words = ["▁negative", "▁positive", "<extra_id_5>", "▁the", "▁the"]
    started = table[[vocabulary[word] for word in words]] * 1.5
    write_run(root / "film", tiny_lm, started, init="class_labels")
    write_run(root / "book", tiny_lm, started + 0.1 * rng.normal(size=started.shape).astype(np.float32))
    shape = (2, 2, 4, 3, tiny_lm.config.d_kv)  # keys and values, L, P, H, D
    kv = {stack: tuple(rng.normal(size=shape).astype(np.float32)) for stack in ("decoder", "encoder")}
    jp.save_prompt(root / "prefix", Injection(kv=kv), PromptMeta("prefix_tuning", BaseModel.of(tiny_lm)))
    np.save(root / "sst2.npy", rng.normal(size=(12, 16)).astype(np.float32))
    return {name: str(root / name) for name in ("film", "book", "prefix", "sst2.npy")}


@pytest.fixture(scope="module")
def report(places, tiny_lm):
    """Of all four, next to the one model."""
    models = Models("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "load_model", lambda name, **_: tiny_lm)
        return interpret(open_prompts(list(places.values())), models, k=4, draws=50)


class Page(html.parser.HTMLParser):
    """Collects text, and refuses elements that do not close."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.text, self.links = [], set(), [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)
        assert len({name for name, _ in attributes}) == len(attributes)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "action")]
        assert not any("url(" in (value or "") for _, value in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)
        else:
            assert "url(" not in data
            assert "@import" not in data


# What is opened


def test_runs_prompts_and_arrays_are_opened(places, tiny_lm):
    film, book, prefix, released = open_prompts(list(places.values()))
    assert [prompt.name for prompt in (film, book, prefix, released)] == ["film", "book", "prefix", "sst2"]
    # What a configuration leaves empty is the method's default.
    assert [prompt.init for prompt in (film, book, prefix, released)] == ["class_labels", "sampled_vocab", "", ""]
    assert film.labels == ("negative", "positive")
    assert film.curves["validation", "accuracy"][-1] == (29, 0.5 + 29 / 90)
    assert (prefix.is_prefix, prefix.rows.shape) == (True, (4, 2 * 2 * 2 * 3 * tiny_lm.config.d_kv))
    assert (released.meta, released.rows.shape) == (None, (12, 16))
    assert [film.comparable(other) for other in (book, prefix, released)] == [True, False, True]
    given = open_prompts([places["film"] + "/prompt"], ["random"], ["yes"])[0]
    assert (given.name, given.init, given.labels, given.place) == ("film", "random", ("yes",), film.place)


def test_prompts_trained_together_are_opened_one_by_one(tmp_path, places):
    shutil.copytree(places["film"], tmp_path / "run")
    shutil.move(tmp_path / "run" / "prompt", tmp_path / "run" / "prompts" / "0")
    shutil.copytree(tmp_path / "run" / "prompts" / "0", tmp_path / "run" / "prompts" / "1")
    found = open_prompts([str(tmp_path / "run" / "prompts" / str(number)) for number in range(2)])
    assert [(prompt.name, prompt.init, bool(prompt.curves)) for prompt in found] == [
        ("run/0", "class_labels", True), ("run/1", "class_labels", True),
    ]  # fmt: skip


def test_what_cannot_be_opened(tmp_path, places):
    with pytest.raises(FileNotFoundError, match="nowhere is not a saved prompt"):
        open_prompts([str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="1 prompts but 2 ways to start"):
        open_prompts([places["film"]], ["random", "string"])
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite: its training diverged"):
        open_prompts([str(tmp_path / "nan.npy")])
    shutil.copytree(places["film"], tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"cannot understand .*run/config\.json"):
        open_prompts([str(tmp_path / "run")])


def test_models_are_refused_or_missed(tmp_path, places, tiny_lm, tiny_directory, monkeypatch):
    film, _, prefix, released = open_prompts(list(places.values()))
    assert "have no neighbours" in Models().of(prefix)
    assert Models().of(released) == "neighbours need the model's embeddings: give --model"
    shutil.copytree(places["film"], tmp_path / "run")
    record = tmp_path / "run" / "prompt" / "prompt.json"
    record.write_text(record.read_text().replace(str(tiny_directory), "/no/such/model"))
    moved = open_prompts([str(tmp_path / "run")])[0]
    assert re.search(r"give --model \(there is no directory /no/such/model", Models().of(moved))
    with pytest.raises(CheckpointError, match="/no/such/place"):
        Models("/no/such/place").of(film)
    other = t5_files.write(tmp_path / "other", t5_files.CONFIG | {"vocab_size": 1792})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(nano.ASSETS / file, other)
    with pytest.raises(PromptMismatch, match="was trained on"):
        Models(str(other)).of(film)
    monkeypatch.setattr(opened, "load_model", lambda name, **_: tiny_lm)
    narrow = np.zeros((3, 5), np.float32)
    np.save(tmp_path / "narrow.npy", narrow)
    with pytest.raises(PromptMismatch, match="has width 5, but tiny has 16"):
        Models("tiny").of(open_prompts([str(tmp_path / "narrow.npy")])[0])


# What is found


def test_the_report_finds_what_was_planted(report, places):
    film, _, prefix, released = report["prompts"]
    assert [row[0]["token"] for row in film["neighbours"]["cosine"]] == [
        "␣negative", "␣positive", "<extra_id_5>", "␣the", "␣the",
    ]  # fmt: skip
    assert [row[0]["value"] for row in film["neighbours"]["cosine"]] == [1.0] * 5
    assert film["shared_neighbours"] == [
        {"id": film["neighbours"]["cosine"][3][0]["id"], "token": "␣the", "slots": [3, 4]}
    ]
    assert [label["kept"] for label in film["label_neighbours"]] == [True, True]
    assert report["labels_by_init"]["class_labels"]["kept"] == 1
    assert report["labels_by_init"]["sampled_vocab"]["kept"] is None
    assert film["norms"] == pytest.approx(np.linalg.norm(jp.load_prompt(film["place"])[0].tokens, axis=1), abs=1e-5)
    assert "neighbours" in released, "with a model given"
    assert "no neighbours" in prefix["no_neighbours"]
    kv = jp.load_prompt(prefix["place"])[0].kv
    keys = np.asarray(kv["encoder"][0], np.float64)
    assert prefix["prefix_norms"]["encoder"]["keys"] == pytest.approx(
        [np.mean([np.linalg.norm(keys[layer, position]) for position in range(4)]) for layer in range(2)], abs=1e-5
    )
    assert report["similarity"]["average_tokens"][0][1] > 0.9
    assert report["similarity"]["average_tokens"][0][2] is None
    json.dumps(report, allow_nan=False)


def test_the_same_report_again(report, places, tiny_lm, monkeypatch):
    monkeypatch.setattr(opened, "load_model", lambda name, **_: tiny_lm)
    again = interpret(open_prompts(list(places.values())), Models("tiny"), k=4, draws=50)
    assert again == report
    assert to_html(again) == to_html(report)


def test_sources_are_ranked_with_the_flags_to_start_from_them(places):
    film, book, prefix, released = open_prompts(list(places.values()))
    found = interpret([film], Models("", ""), sources=[released, book], draws=5)["closest"]["film"]
    assert [(source["name"], source["task"]) for source in found] == [("book", "sentiment"), ("sst2", "")]
    assert found[0]["flags"] == (
        f"--config.prompt.init=saved --config.prompt.path={book.place} --config.prompt.length=5"
    )
    assert found[1]["flags"].startswith("--config.prompt.init=npy")
    with pytest.raises(ValueError, match="differ in method, in width"):
        interpret([film], Models(), sources=[prefix], draws=5)
    with pytest.raises(ValueError, match="given twice"):
        interpret([film], Models(), sources=[film], draws=5)


# The page


def test_the_page_is_whole_and_stands_alone(report):
    page = Page(to_html(report, "a < b"))
    assert {"svg", "table", "details", "polyline", "section"} <= page.seen
    assert all(link.startswith("#") for link in page.links)
    text = " ".join(page.text)
    assert {"a < b", "␣negative", "<extra_id_5>"} <= set(page.text), "escaped, and so read as text"
    film = report["prompts"][0]
    for said in (f"{film['norm']['mean']:.2f} ± {film['norm']['sd']:.2f}", "accuracy 0.875", "train loss",
                 "validation accuracy", "decoder keys", "have no neighbours",
                 f"{report['similarity']['per_token'][0][1]:.3f}"):  # fmt: skip
        assert said in text, said


def test_the_text_says_the_same(report):
    text = to_text(report)
    for said in ("␣negative 1.00  ", "nearest to several tokens: ␣the (2)", "similarity of prompts, cosine of average",
                 "class_labels          1           100.0 %"):  # fmt: skip
        assert said in text, text


def test_markup_escapes():
    assert element("a", "<b>", Markup("<i/>"), None, href='"&', class_="x", id=None) == (
        '<a href="&quot;&amp;" class="x">&lt;b&gt;<i/></a>'
    )
    assert table(("<",), [(element("td", 1, class_="n"),)]).count("<td") == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.82, 0.93, [0.8, 0.825, 0.85, 0.875, 0.9, 0.925, 0.95]),
     (-30, 1000, [-250, 0, 250, 500, 750, 1000]), (3, 3, [0, 2, 4, 6]), (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)  # fmt: skip
def test_ticks_are_round_and_span(low, high, expected):
    found = drawing.ticks(low, high)
    assert found == expected
    assert found[0] <= low
    assert found[-1] >= high


def test_colours_and_empty_figures():
    assert [drawing.shade(value, 1) for value in (-2, 0, 2)] == ["#0b6e99", "#ffffff", "#d95b0d"]
    assert drawing.lines({"loss": [(1, None)]}, "step") == ""
    assert "M0 0h2v1H0z" in drawing.heat_map([[0.5, 0.5], [0.0, -1.0]], 1.0, "token")
    assert Page(drawing.lines({"loss": [(1, 100.0), (2, None), (3, 0.1)]}, "step", log=True)).seen


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser chromium")
def test_a_browser_shows_the_page(report, tmp_path):
    (tmp_path / "report.html").write_text(to_html(report, "report"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}",
         "--enable-logging=stderr", "--dump-dom", (tmp_path / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, "no refused resource and no error"
    assert "&lt;extra_id_5&gt;" in done.stdout
    # A browser moves or drops what does not belong where it stands.
    written = to_html(report, "report")
    for tag in ("svg", "tr", "td", "rect", "path", "span", "details"):
        assert len(re.findall(rf"<{tag}[ >/]", done.stdout)) == len(re.findall(rf"<{tag}[ >/]", written)), tag


# The command


def test_the_command_without_a_model(places, tmp_path):
    arguments = (f"--prompt={places['sst2.npy']}", f"--sources={places['film']}",
                 f"--output={tmp_path / 'report.html'}", f"--json={tmp_path / 'report.json'}")  # fmt: skip
    done = nano.python("launch/interpret.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sst2: neighbours need the model's embeddings: give --model" in done.stdout
    assert f"to start from the closest: --config.prompt.init=saved --config.prompt.path={places['film']}/prompt" in (
        done.stdout
    )
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["prompts"][0]["norm"]["mean"] == pytest.approx(
        np.linalg.norm(np.load(places["sst2.npy"]), axis=1).mean(), abs=1e-5
    )
    Page((tmp_path / "report.html").read_text())
