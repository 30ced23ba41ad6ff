"""`configs/lester.py`: every method on every task fits together, and arguments mean what the paper says."""

import functools
import importlib.util

import jax
import nano
import pytest

from jaxprompt.cli import read_experiment
from jaxprompt.data.tasks import FORMATS
from jaxprompt.patching import patch
from jaxprompt.planning.step_program import abstract_model, task_format
from jaxprompt.training.optim import preset
from jaxprompt.trees import flatten

SPEC = importlib.util.spec_from_file_location("configs_lester", nano.ROOT / "configs/lester.py")
assert SPEC is not None
assert SPEC.loader is not None
LESTER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(LESTER)
KNOWN = LESTER.KNOWN


def experiment(argument):
    return read_experiment(LESTER.get_config(argument))


@functools.cache
def frozen(path):
    """The shapes of a T5 1.1 small, whose heads are together narrower than the model."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return abstract_model(experiment("" if path.endswith("lm-adapt") else "lm_steps=0"), None, where)


def patched(config):
    format = task_format(config)
    lm = frozen(config.model.path)
    return patch(lm, config.prompt.build(format.init_words), config.prompt.template or format.input), format


# Long lists of cells: a task each would cost more in pytest than in the test.
@pytest.mark.parametrize("method", KNOWN["method"])
def test_every_method_fits_every_task(method):
    for task in KNOWN["task"]:
        if (method, task) == ("prompt_design", "superglue"):
            continue
        config = experiment(f"size=small,task={task},method={method}")
        model, format = patched(config)
        length = {"prompt_tuning": 100, "p_tuning": 20}.get(method, 0)
        assert model.template.num_slots == length, task
        assert format.input in str(model.template), "P-tuning's templates are written out in the config"
        assert format.max_input_length == 512
        if config.prompt.init == "class_labels" and task != "superglue":
            assert format.init_words, task


@pytest.mark.parametrize(
    ("argument", "trainable"),
    [
        ("method=prompt_tuning", 51_200),  # table 4 of the paper, as the next three
        ("method=prompt_tuning,length=1", 512),
        ("method=prompt_tuning,length=20", 10_240),  # 10,420 there; its other columns have this
        ("method=prompt_tuning,length=150", 76_800),
        # Three stacks, each a matrix [100, 512] and 512 -> 512 -> 2 * 8 layers * 6 heads * 64.
        ("method=prefix_tuning", 3 * (51_200 + 512 * 512 + 512 + 513 * 6144)),
    ],
)
def test_what_trains_has_the_size_that_it_should(argument, trainable):
    config = experiment(f"size=small,task=boolq,init=random,{argument}" if "prompt" in argument else argument)
    model, _ = patched(config)
    shapes = jax.eval_shape(lambda: model.method.init_params(jax.random.key(0), model.lm))
    assert sum(leaf.size for leaf in flatten(shapes).values()) == trainable


def test_the_defaults_are_the_papers():
    config = experiment("size=xxl,task=boolq")
    assert config == experiment("size=xxl,task=boolq,method=prompt_tuning,preset=lester2021,length=100")
    assert config.model.path == "google/t5-xxl-lm-adapt"
    assert (config.task.name, config.task.source) == ("boolq", "tfds:super_glue/boolq")
    assert (config.prompt.length, config.prompt.init) == (100, "class_labels")
    assert (config.train.steps, config.train.batch_size, config.train.normalization) == (30_000, 32, "sum")
    optim = config.optim
    assert (optim.name, optim.learning_rate, optim.schedule, optim.weight_decay) == ("adafactor", 0.3, "constant", 1e-5)
    assert (optim.start_step, optim.multiply_by_parameter_scale, optim.decay_rate) == (1_100_000, False, 0.8)


def test_one_argument_switches_the_preset():
    published, modern = experiment("task=rte"), experiment("task=rte,preset=modern")
    assert (published.optim, modern.optim) == (preset("lester2021"), preset("modern"))
    same = {key: value for key, value in published.to_dict().items() if key != "optim"}
    assert {key: value for key, value in modern.to_dict().items() if key != "optim"} == same


@pytest.mark.parametrize(
    ("argument", "path", "sentinel"),
    [
        ("", "google/t5-small-lm-adapt", False),
        ("lm_steps=0", "google/t5-v1_1-small", False),
        ("lm_steps=10000", "runs/lm-small/model-10000", False),
        ("objective=span_corruption", "google/t5-v1_1-small", False),
        ("objective=span_corruption_sentinel", "google/t5-v1_1-small", True),
        ("method=model_tuning", "google/t5-v1_1-small", False),  # "the public T5.1.1 checkpoints"
        ("method=model_tuning,objective=lm_adaptation", "google/t5-small-lm-adapt", False),
        ("method=model_tuning,lm_steps=50000", "runs/lm-small/model-50000", False),
    ],
)
def test_objectives_and_steps_name_checkpoints(argument, path, sentinel):
    config = experiment(argument)
    assert (config.model.path, config.task.target_sentinel) == (path, sentinel)


def test_model_tuning_is_t5s():
    alone, mixed = (experiment(f"task={task},method=model_tuning") for task in ("cb", "superglue"))
    assert (alone.optim.name, alone.optim.learning_rate, alone.optim.schedule) == ("adafactor", 1e-3, "constant")
    assert alone.optim.multiply_by_parameter_scale
    assert 512 * alone.train.batch_size == 2**16  # footnotes 3 and 4
    assert 512 * mixed.train.batch_size == 2**20
    names = [entry.partition("=")[0] for entry in mixed.task.mixture]
    assert names == [*LESTER.SUPERGLUE, "dpr"]


def test_words_to_start_from_where_there_are_no_labels():
    # Footnote 7.
    assert FORMATS["record"].init_words == ("commonsense", "reasoning", "reading", "comprehension")
    assert FORMATS["wsc"].init_words == ("commonsense", "pronoun", "resolution")
    assert experiment("task=record").prompt.init == experiment("task=wsc").prompt.init == "class_labels"
    assert experiment("task=squad").prompt.init == "sampled_vocab"


def test_domain_shift_is_asked_for():
    squad = experiment("task=squad,method=model_tuning").eval
    assert (len(squad.transfer), squad.metric) == (6, "f1")
    assert "mrqa_textbookqa=tfds:mrqa/textbook_qa@test" in squad.transfer
    assert experiment("task=qqp").eval.transfer == ("mrpc=tfds:glue/mrpc",)
    assert experiment("task=mrpc").eval.transfer == ("qqp=tfds:glue/qqp",)
    assert experiment("task=boolq").eval.transfer == ()
    for task in ("squad", "qqp", "mrpc"):
        for entry in experiment(f"task={task}").eval.transfer:
            other = FORMATS[entry.partition("=")[0]]
            assert len(other.labels) == len(FORMATS[task].labels)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("size=huge", r"knows size=small\|base\|large\|xl\|xxl, not 'huge'"),
        ("sise=xxl", r"takes size=.*, lm_steps=… and length=…, not \['sise'\]"),
        ("length=many", "takes length=NUMBER from 1 on, not 'many'"),
        ("length=0", "takes length=NUMBER"),
        ("method=model_tuning,length=5", r"takes length=… with method=prompt_tuning.*, not model_tuning"),
        ("method=prefix_tuning,preset=modern", "takes preset=… with method="),
        ("method=p_tuning,init=random", "takes init=… with method=prompt_tuning, not p_tuning"),
        ("objective=span_corruption,lm_steps=10000", "has no LM adaptation, so lm_steps is 0, not 10000"),
        ("method=prompt_design,task=superglue", "a text prompt is one task's"),
    ],
)
def test_arguments_that_cannot_be(argument, message):
    with pytest.raises(ValueError, match=message):
        LESTER.get_config(argument)
