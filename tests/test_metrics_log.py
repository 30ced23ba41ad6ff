"""`metrics.jsonl`: what it holds after runs that end well and runs that do not."""

import json

import pytest

from jaxprompt.evaluation.curves import read_curves
from jaxprompt.training.metrics_log import MetricsLog


def write(path, resume_step, *events):
    log = MetricsLog(path, resume_step)
    for event in events:
        log.write(*event)
    log.close()


def test_events_are_json_objects_that_come_back_exactly(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, (5, "train", {"loss": 0.1 + 0.2, "count": 3}), (5, "validation", {"accuracy": 1 / 3}))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert events == [
        {"step": 5, "split": "train", "values": {"loss": 0.1 + 0.2, "count": 3.0}},
        {"step": 5, "split": "validation", "values": {"accuracy": 1 / 3}},
    ]
    assert read_curves(path)["validation", "accuracy"] == [(5, 1 / 3)]


def test_an_event_is_in_the_file_at_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.write(1, "train", {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    log.close()


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, *((step, "train", {"loss": step}) for step in (10, 20, 30)))
    write(path, 20, (30, "train", {"loss": -30.0}))
    assert read_curves(path)["train", "loss"] == [(10, 10.0), (20, 20.0), (30, -30.0)]
    assert len(path.read_text().splitlines()) == 3
    write(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("torn", ['{"step": 20, "spl', "", '{"step": 20, "split": "train", "values": {}}'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, (10, "train", {"loss": 1.0}))
    whole = path.read_text()
    path.write_text(whole + torn)
    write(path, 30)
    assert path.read_text() == whole


@pytest.mark.parametrize("line", ["not json", "[1]", '{"split": "train"}', '{"step": "x"}'])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train", "values": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not an event of a run"):
        MetricsLog(path, 1)
    assert line in path.read_text(), "and is not thrown away"
