"""Answers that survive a kill at any moment: the journal, the lines it goes on from, and how fast it was."""

import json
import threading

import pytest
from object_store import BUCKET, object_store

from jaxprompt.paths import as_path
from jaxprompt.serving import journal
from jaxprompt.serving.ahead import ahead
from jaxprompt.serving.input_lines import InputLines, Position
from jaxprompt.serving.journal import Journal
from jaxprompt.serving.throughput import Counts, Throughput

# What aiohttp thinks of how gcsfs uses it.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

SETTINGS = {"model": "m", "prompts": {"rte": {"method": "rank"}}}
LINES = [f"line {number} {'x' * (number + 1)}" for number in range(10)]


class Died(BaseException):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def bucket():
    with object_store():
        yield as_path(f"gs://{BUCKET}")


@pytest.fixture(params=["disk", "gs"])
def output(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "out.jsonl"
    return request.getfixturevalue("bucket") / tmp_path.name / "out.jsonl"


@pytest.fixture
def input(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(LINES))
    return path


def answer(input, output, settings=SETTINGS, window=3):
    """What `predict_file` does with the two; answers are the lines in capitals."""
    with Journal(output, settings) as log, InputLines(input, log.position) as lines:
        done = 0
        for found in lines.windows(window):
            log.add([text.decode().strip().upper() for text in found.texts], found.end, {"lines": found.end.lines})
            done += len(found.texts)
        log.finish({"lines": log.position.lines})
        return done


def record(output):
    return json.loads(as_path(f"{output}.summary.json").read_text())


ANSWERS = "".join(f"{line.upper()}\n" for line in LINES)


@pytest.mark.parametrize("moment", [*range(10), "torn"])
def test_a_kill_at_any_moment_costs_nothing(input, output, monkeypatch, moment):
    """Every write of the first process but the first few is lost with it, or torn."""
    writes = 0

    def dies(write):
        def call(*arguments):
            nonlocal writes
            writes += 1
            if writes == (4 if moment == "torn" else moment + 1):
                if moment == "torn" and isinstance(arguments[1], bytes):
                    write(arguments[0], arguments[1][:5])
                raise Died
            return write(*arguments)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((journal, "write_whole"), (journal._Appended, "add"), (journal._Parts, "add")):
            patch.setattr(owner, name, dies(getattr(owner, name)))
        with pytest.raises(Died):
            answer(input, output)
    before = record(output)["position"]["lines"] if moment else 0
    assert answer(input, output) == len(LINES) - before
    assert as_path(output).read_text() == ANSWERS
    assert record(output)["finished"]
    assert record(output)["counts"] == {"lines": 10}
    assert answer(input, output) == 0
    assert as_path(output).read_text() == ANSWERS
    assert {path.name for path in as_path(output).parent.iterdir()} <= {"in.txt", "out.jsonl", "out.jsonl.summary.json"}


def test_a_kill_while_parts_become_one(input, bucket, tmp_path, monkeypatch):
    output = bucket / tmp_path.name / "joined.jsonl"
    answer(input, output)
    with input.open("a") as file:
        file.write("\nmore\nand more\n")
    write = Journal._write

    def dies(self, *, finished):
        if finished:
            raise Died
        write(self, finished=finished)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", dies)
        with pytest.raises(Died):
            answer(input, output)
    assert record(output)["output"]["parts"] == 1
    assert answer(input, output) == 0
    assert as_path(output).read_text() == ANSWERS + "MORE\nAND MORE\n"


def test_more_lines_are_answered_when_they_come(input, output):
    input.write_text("\n".join(LINES[:7]) + "\n\n")
    assert answer(input, output) == 7
    input.write_text("\n".join([*LINES[:7], "", *LINES[7:]]) + "\n")
    assert answer(input, output) == 3
    assert as_path(output).read_text() == ANSWERS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            "\n".join([*LINES[:8], "x" * len(LINES[8]), *LINES[9:]]),
            "its first 10 lines are not those that were answered",
        ),
        ("\n".join(LINES[:4]), "bytes of it were answered, and it now has"),
        ("\n".join(LINES) + "y", "line 10, the last one when it was answered, was continued"),
    ],
)
def test_another_input_is_refused(input, tmp_path, changed, message):
    output = tmp_path / "out.jsonl"
    answer(input, output)
    input.write_text(changed)
    with pytest.raises(ValueError, match=message):
        answer(input, output)
    assert output.read_text() == ANSWERS


def test_other_settings_are_refused(input, output):
    answer(input, output)
    with pytest.raises(ValueError, match=r"prompts/rte/method: there 'rank', here 'greedy'\nGive the same settings"):
        answer(input, output, {"model": "m", "prompts": {"rte": {"method": "greedy"}}})
    with pytest.raises(ValueError, match="prompts/cb/method: there None, here 'rank'"):
        answer(input, output, SETTINGS | {"prompts": {**SETTINGS["prompts"], "cb": {"method": "rank"}}})


def test_settings_that_brought_no_answer_may_change(input, output):
    with Journal(output, {"model": "other"}):
        assert not record(output)["finished"]
    assert answer(input, output) == 10
    assert as_path(output).read_text() == ANSWERS
    with pytest.raises(ValueError, match="model: there 'm', here 'other'"):
        Journal(output, {"model": "other"})


def test_files_of_others_are_left_alone(input, output):
    as_path(output).parent.mkdir(parents=True, exist_ok=True)
    as_path(output).write_text("mine\n")
    with pytest.raises(FileExistsError, match="holds something already"):
        answer(input, output)
    assert as_path(output).read_text() == "mine\n"
    with pytest.raises(FileExistsError, match="holds something already"):
        answer(input, input)


def test_what_was_damaged_is_refused(input, output):
    answer(input, output)
    as_path(output).write_text(ANSWERS[:20])
    with pytest.raises(ValueError, match=r"has 20 bytes of the \d+ or more that were written"):
        answer(input, output)
    as_path(f"{output}.summary.json").write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match=r"cannot understand .*KeyError: 'position'"):
        answer(input, output)


def test_standard_streams(input, monkeypatch, capfdbinary):
    with input.open("rb") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", type("Stream", (), {"buffer": file}))
        assert answer("-", "-") == 10
    assert capfdbinary.readouterr().out == ANSWERS.encode()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        InputLines(input.with_name("nothing"), Position())


def test_blank_lines_count_in_numbers_alone(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"\r\na\r\n\n \nb\n\n")
    with InputLines(path, Position()) as lines:
        (found,) = lines.windows(5)
    assert (found.numbers, found.texts) == ((2, 5), (b"a\r\n", b"b\n"))


def test_the_next_items_are_made_while_one_is_used():
    second, used = threading.Event(), []

    def items():
        yield 1
        second.set()
        yield 2
        raise KeyError("three")

    def use():
        with ahead(items()) as made:
            for item in made:
                assert second.wait(10)
                used.append(item)

    with pytest.raises(KeyError, match="three"):
        use()
    assert used == [1, 2]
    with ahead(iter(range(10**9))) as made:
        assert next(made) == 0
    for thread in threading.enumerate():
        if thread.name == "jaxprompt-lines":
            thread.join(10)
            assert not thread.is_alive()


def test_counts_go_on_from_earlier_processes(capfd, monkeypatch):
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr("jaxprompt.serving.throughput.time.monotonic", lambda: next(clock))
    earlier = Counts(lines=6, errors=1, batches=1, input_tokens=10, computed_tokens=20, seconds=1.0, sittings=1)
    earlier.by_prompt["rte"] = 5
    with Throughput(Counts.from_dict(earlier.to_dict()), 50, 100) as throughput:
        throughput.batch(30, 40, 8)
        throughput.line("rte")
        throughput.line("", failed=True)
        throughput.window(75)
        throughput.window(100)
    counts = throughput.counts.to_dict()
    assert (counts["lines"], counts["errors"], counts["sittings"], counts["seconds"]) == (8, 2, 2, 5.0)
    assert (counts["by_prompt"], earlier.by_prompt) == ({"rte": 6}, {"rte": 5})
    assert counts["lines_per_second"] == 8 / 5
    assert (counts["input_tokens_per_second"], counts["new_tokens_per_second"]) == (8.0, 1.6)
    assert counts["padding_share"] == pytest.approx(1 / 3)
    shown = capfd.readouterr().err
    assert "100/100" in shown
    assert "lines=8" in shown
    assert "tokens/s=10" in shown
    assert "errors=2" in shown
