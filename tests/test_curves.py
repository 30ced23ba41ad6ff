import json
import math

import pytest

from jaxprompt.evaluation.curves import plot_learning_curve, read_curves

matplotlib = pytest.importorskip("matplotlib")


def event(step, split, **values):
    return json.dumps({"step": step, "split": split, "values": values})


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_read_curves_orders_steps_and_keeps_the_later_line(tmp_path):
    log = write(
        tmp_path / "metrics.jsonl",
        event(20, "train", loss=2.0),
        event(10, "train", loss=3.0, grad_norm=1.0),
        "",
        event(20, "train", loss=1.5),
        event(20, "validation", accuracy=0.5),
    )
    assert read_curves(log) == {
        ("train", "loss"): [(10, 3.0), (20, 1.5)],
        ("train", "grad_norm"): [(10, 1.0)],
        ("validation", "accuracy"): [(20, 0.5)],
    }


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1, "split": "train"}', '{"step": 1, "split": "a", "values": 3}'])
def test_read_curves_names_the_bad_line(tmp_path, line):
    log = write(tmp_path / "metrics.jsonl", event(1, "train", loss=1.0), line)
    with pytest.raises(ValueError, match="line 2"):
        read_curves(log)


def test_plot_has_both_panels(tmp_path):
    lines = [event(step, "train", loss=5 * math.exp(-step / 50) + 0.1) for step in range(0, 200, 5)]
    lines += [event(step, "validation", loss=1.0, accuracy=step / 200, f1=step / 300) for step in range(0, 200, 40)]
    out = tmp_path / "new" / "curve.png"
    references = {"no prompt": 0.3, "hard prompt": 0.4}
    plot_learning_curve(write(tmp_path / "metrics.jsonl", *lines), out, title="RTE", references=references)
    image = matplotlib.image.imread(out)
    assert image.shape[0] > 700
    assert image.shape[1] > 900
    assert image.std() > 0.01  # not blank


@pytest.mark.parametrize("line", [event(1, "train", loss=float("nan")), event(1, "validation", accuracy=1.0)])
def test_plot_draws_what_there_is(tmp_path, line):
    plot_learning_curve(write(tmp_path / "metrics.jsonl", line), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_plot_refuses_an_empty_log(tmp_path):
    with pytest.raises(ValueError, match="no loss"):
        plot_learning_curve(write(tmp_path / "metrics.jsonl", ""), tmp_path / "curve.png")
