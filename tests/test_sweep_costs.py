"""What a grid costs: the arithmetic on times that are given, and which runs share a program."""

import importlib.util
import json

import nano
import pytest

from jaxprompt.experiment import Experiment
from jaxprompt.paths import as_path
from jaxprompt.sweeps.cost_report import make_report, read_known, to_text
from jaxprompt.sweeps.costs import cost_runs
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import expand, link
from jaxprompt.sweeps.scored import scored_batches
from jaxprompt.sweeps.shapes import Times, shape_of

CONFIG = '''
from jaxprompt.experiment import Experiment


def get_config(argument=""):
    """As configs/lester.py, cut down."""
    chosen = {"size": "small", "task": "rte", "method": "prompt_tuning", "model": ""}
    chosen |= dict(part.partition("=")[::2] for part in argument.split(",") if part)
    return Experiment().to_config(
        model={"path": chosen["model"] or f"google/t5-{chosen['size']}-lm-adapt"},
        prompt={"method": chosen["method"], "length": 100, "init": "class_labels"},
        task={"name": chosen["task"], "source": f"tfds:super_glue/{chosen['task']}", "max_target_length": 4},
        train={"steps": 1000, "batch_size": 32},
        eval={"every": 250, "batch_size": 100},
    )
'''
TIMES = Times("v5e-16", 16, (4, 4), {}, step=0.5, prefill=2.0, decode=0.25)


@pytest.fixture
def sweep(tmp_path):
    """From stages to linked runs."""
    (tmp_path / "grid.py").write_text(CONFIG)

    def runs(*stages, folds=True):
        grid = expand([{"config": str(tmp_path / "grid.py"), **stage} for stage in stages], "r")
        return link(fold(grid) if folds else grid, "r")

    return runs


def costs_of(runs, measure=lambda shape: TIMES):
    return cost_runs(runs, runs, "r", measure, {})


def test_a_run_is_its_steps_and_its_evaluations(sweep):
    (one,) = costs_of(sweep({}))
    # RTE's 277 examples are three batches of 100, each 2 s and four tokens of 0.25 s; evaluated at steps 250, 500, 750
    # and 1000, and once more with the best.
    assert (one.train, one.evaluation) == (1000 * 0.5, 5 * 3 * (2.0 + 4 * 0.25))
    assert one.chip_hours == pytest.approx(16 * (500 + 45) / 3600)
    (other,) = costs_of(sweep({"set": {"train.steps": 1001, "eval.max_examples": 100, "eval.baselines": True}}))
    assert other.evaluation == (5 + 3) * 1 * 3.0


def test_each_shape_is_measured_once(sweep):
    measured = []

    def measure(shape):
        measured.append((shape.model.path, shape.prompt.method, shape.train.batch_size))
        return TIMES

    runs = sweep(
        {"axes": {"method": ["prompt_tuning", "model_tuning"], "size": ["small", "xl"], "task": ["rte", "cb"],
                  "seed": [0, 1, 2]}},
        {"name": "rates", "axes": {"optim.learning_rate": [0.1, 0.3], "prompt.init": ["random", "sampled_vocab"],
                                   "train.steps": [10, 20]}, "fold": []},
    )  # fmt: skip
    assert len(costs_of(runs, measure)) == 4 + 12 + 8
    assert measured == [
        ("t5-v1_1-small", "prompt_tuning", 96), ("t5-v1_1-xl", "prompt_tuning", 96),
        ("t5-v1_1-small", "model_tuning", 32), ("t5-v1_1-xl", "model_tuning", 32),
        ("t5-v1_1-small", "prompt_tuning", 32),
    ]  # fmt: skip


def test_a_model_that_the_sweep_makes_has_the_shape_of_where_it_came_from(sweep):
    stages = [{"name": "adapt", "axes": {"size": ["xl"]},
               "set": {"method": "model_tuning", "corpus.objective": "prefix_lm", "corpus.row_length": 512}},
              {"name": "more", "axes": {"size": ["xl"]}, "set": {"model": "{root}/adapt-{size}/model-10"}},
              {"name": "tune", "axes": {"size": ["xl"]}, "set": {"model": "{root}/more-{size}/model"}}]  # fmt: skip
    runs = sweep(*stages)
    shapes = [shape_of(run.experiment, {run.name: run for run in runs}, "r") for run in runs]
    assert {shape.model.path for shape in shapes} == {"t5-v1_1-xl"}
    assert (shapes[0].corpus.objective, shapes[0].corpus.row_length) == ("prefix_lm", 512)
    assert shapes[1] == shapes[2] != shapes[0]
    # 2048 documents of text in batches of 100, four times
    assert [one.evaluation for one in costs_of(runs)] == [4 * 21 * 2.0, 5 * 3 * 3.0, 5 * 3 * 3.0]


BOOLQ = {"name": "boolq", "source": "tfds:super_glue/boolq"}


@pytest.mark.parametrize(
    ("task", "eval", "batches", "unknown"),
    [
        (BOOLQ, {}, 33, ()),
        (BOOLQ, {"max_examples": 250}, 3, ()),
        (BOOLQ | {"validation_split": "train"}, {}, 0, ("boolq",)),
        ({"source": "mini:sentiment"}, {}, 5, ()),
        ({"name": "rte", "source": "jsonl:mine"}, {}, 0, ("rte",)),
        ({"name": "rte", "source": "jsonl:mine"}, {"max_examples": 50}, 1, ()),
        # 3270 and 104 examples; what is trained on alone is not scored
        ({"mixture": ("boolq", "wsc=tfds:super_glue/wsc.fixed", "rte=tfds:x@"), "source": "tfds:super_glue/{name}"}, {},
         33 + 2, ()),
    ],
)  # fmt: skip
def test_batches_of_an_evaluation(task, eval, batches, unknown):
    experiment = Experiment.from_dict({"task": task, "eval": {"batch_size": 100} | eval, "train": {"steps": 100}})
    assert scored_batches(experiment) == (2 * batches, unknown)


def test_other_sets_are_scored_once():
    transfer = ("mrqa_race=tfds:mrqa/race@test", "qqp=tfds:glue/qqp", "own=jsonl:mine")
    eval = {"batch_size": 100, "transfer": transfer}
    experiment = Experiment.from_dict({"task": BOOLQ, "eval": eval, "train": {"steps": 100}})
    assert scored_batches(experiment) == (2 * 33 + 7 + 405, ("own",))


def test_the_table_adds_up_and_says_what_is_left_out(sweep):
    def measure(shape):
        if shape.model.path == "t5-v1_1-xl":
            return Times(problem="does not fit v5e-16, and nothing that was tried does")
        return TIMES

    runs = sweep(
        {"axes": {"size": ["small", "xl"], "task": ["rte", "boolq"], "seed": [0, 1, 2]}},
        {"name": "own", "set": {"task.source": "jsonl:mine"}},
        {"name": "odd", "set": {"task.source": "jsonl:mine", "task.name": "odd", "task.max_target_length": 0}},
    )
    costs = costs_of(runs, measure)
    lines = to_text(costs, "v5e-16").splitlines()
    rte, boolq, own = 16 * 545 / 3600, 16 * (500 + 5 * 33 * 3) / 3600, 16 * 500 / 3600
    assert sum(one.chip_hours for one in costs) == pytest.approx(rte + boolq + own)
    rows = [line.split() for line in lines]
    assert ["boolq", "2", "6", "0.28", f"{boolq:.2g}"] in rows
    assert ["xl", "2", "6", "0", "0"] in rows
    assert any(line.startswith("t5-v1_1-small  prompt_tuning x 3    96") for line in lines)
    assert lines[-4:] == [
        f"in all {rte + boolq + own:.2g} chip-hours, 0.57 hours one after the other: 6 jobs (12 runs are folded into 4 "
        "of them)",
        "left out: xl-rte, xl-boolq: does not fit v5e-16, and nothing that was tried does",
        "left out: odd: the lengths of task 'odd' (task.source='jsonl:mine') are not known here; set task.name, or "
        "task.max_input_length and task.max_target_length",
        "left out: own: evaluation on rte, whose size is not known here",
    ]


def test_prompts_written_by_hand_are_only_scored(sweep):
    (cost,) = costs_of(sweep({"set": {"method": "prompt_design"}}))
    assert (cost.shape.prompt.length, cost.train) == (1, 0.0)
    assert cost.evaluation == (4 + 1) * 3 * 3.0, "with each of 0, 1, 4 and 16 solved examples, and with the best"


def test_a_report_starts_from_what_is_known(sweep, tmp_path):
    runs, path = sweep({"axes": {"size": ["small", "xl"]}}), as_path(tmp_path / "costs.json")
    measured = []

    def measure(shape):
        measured.append(shape.model.path)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return TIMES

    with pytest.raises(KeyboardInterrupt):
        make_report(runs, runs, "r", "v5e-16", measure, path)
    text = make_report(runs, runs, "r", "v5e-16", measure, path)
    assert measured == [f"t5-v1_1-{size}" for size in ("small", "xl", "xl")]
    values = json.loads(path.read_text())
    assert values["chip_hours"] == pytest.approx(2 * 16 * 545 / 3600)
    assert [(row["name"], row["shape"], row["runs"]) for row in values["runs"]] == [("small", 0, 1), ("xl", 1, 1)]
    assert f"in all {values['chip_hours']:.2g} chip-hours" in text
    assert len(read_known(path, "v5e-16", values["versions"])) == 2
    assert read_known(path, "v5e-8", values["versions"]) == {}
    assert read_known(path, "v5e-16", {"jax": "0.0"}) == {}


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_command_compiles_a_shape_once(tmp_path):
    output, model = tmp_path / "costs.json", nano.write_architecture(tmp_path / "model")
    command = (
        "launch/sweep.py", "--config=configs/quickstart.py", f"--root={tmp_path}", "--plan=v5e-1", f"--output={output}",
        "--axis=task=sentiment,entailment", "--axis=seed=0,1", f"--set=model.path={model}",
    )  # fmt: skip
    done = nano.python(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("v5e-1, mesh 1 x 1: fits") == 1
    values = json.loads(output.read_text())
    (shape,) = values["shapes"]
    assert 0 < shape["times"]["decode"] < shape["times"]["prefill"]
    assert [row["train_seconds"] for row in values["runs"]] == [300 * shape["times"]["step"]] * 2
    again = nano.python(*command)
    assert (again.returncode, again.stderr, again.stdout) == (0, "", done.stdout)
