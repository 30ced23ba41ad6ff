"""An experiment's programs from shapes alone: the real ones, and what is counted of them before they are compiled."""

import json
import math

import jax
import pytest
import t5_files

from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.models.platforms import planned_for
from jaxprompt.planning import flops
from jaxprompt.planning.flops import train_products
from jaxprompt.planning.program_report import device_bytes
from jaxprompt.planning.step_program import Lengths, build_programs, task_format
from jaxprompt.planning.topologies import describe_devices, find_slice

T5 = t5_files.CONFIG | {
    "num_decoder_layers": 2,
    "d_model": 256,
    "d_ff": 512,
    "num_heads": 4,
    "d_kv": 64,
    "num_layers": 2,
    "vocab_size": 512,
}
SMALL = T5 | {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 1, "num_decoder_layers": 1, "vocab_size": 128}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 128}


@pytest.fixture
def programs(tmp_path):
    def build(config=T5, devices=1, **sections):
        (tmp_path / "config.json").write_text(json.dumps(config))
        task = {"name": "rte", "source": "jsonl:nowhere", "max_input_length": 48, "max_target_length": 4}
        values = {"model": {}, "prompt": {"length": 8}, "task": {}, "train": {"batch_size": 8}} | sections
        values["model"] = {"path": str(tmp_path)} | values["model"]
        values["task"] = task | values["task"]
        return build_programs(Experiment.from_dict(values), jax.devices()[:devices])

    return build


def besides(model, rows, inputs, targets):
    """Operations that attention makes beyond its two products and their gradients, so as to sum what it needs.

    A column of ones beside the values (but for rows that share a prompt's keys), and a product of the result with its
    gradient.
    """
    cfg = model.config
    heads = rows * cfg.num_heads
    prefixes = flops.prefixes(model)
    own = lambda queries, keys: 2 * heads * queries * (keys + cfg.d_kv)  # noqa: E731
    if cfg.is_causal:
        total = own(inputs, 0 if "decoder" in prefixes else inputs)
        if model.as_prefix:
            length = model.method.num_slots
            total += 2 * cfg.num_heads * length * (length + cfg.d_kv)
        return cfg.num_layers * total
    encoder = own(inputs, inputs + prefixes.get("encoder", 0))
    decoder = own(targets, targets + prefixes.get("decoder", 0))
    if targets >= cfg.d_kv or "cross" in prefixes:
        decoder += own(targets, inputs + prefixes.get("cross", 0))
    return cfg.num_layers * encoder + cfg.num_decoder_layers * decoder


def products(jaxpr):
    """Operations of all matrix products in a traced function, scans counted by their length."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (_, contracted), (_, batch) = equation.params["dimension_numbers"]
            left, right = (operand.aval.shape for operand in equation.invars)
            own = [size for axis, size in enumerate(right) if axis not in (*contracted, *batch)]
            total += 2 * math.prod(left) * math.prod(own)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * products(inner)
    return total


@pytest.mark.parametrize(
    ("config", "sections"),
    [
        (T5, {}),
        (T5, {"task": {"max_target_length": 80}}),  # cross-attention the other way
        (T5, {"prompt": {"method": "model_tuning"}}),
        (
            T5 | {"feed_forward_proj": "relu", "tie_word_embeddings": True},
            {"train": {"batch_size": 8, "accumulate": 2}},
        ),
        (GPT2, {}),
        (GPT2, {"prompt": {"length": 8, "prepend": True}}),
        (GPT2, {"train": {"batch_size": 8, "tune_model": True}}),
    ],
)
def test_flops_are_those_of_the_traced_step(programs, config, sections):
    built = programs(config, **sections)
    counted = train_products(built.model, 8, built.lengths.inputs, built.lengths.targets)
    trains = "model" in built.state.trainable
    with planned_for("tpu"):  # as its plan is made
        step = jax.make_jaxpr(built.train_step())(built.state, built.frozen, built.batch)
    if built.experiment.train.accumulate == 1 or not built.model.as_prefix:
        extra = besides(built.model, 8, built.lengths.inputs, built.lengths.targets)
        assert products(step.jaxpr) == counted.forward + counted.backward(weights_train=trains) + extra


def test_flops_of_a_prefix(programs):
    """All but the reparametrisation, which is left out: the keys that attention sees besides the rows' own."""
    flat = {"method": "prefix_tuning", "length": 8, "reparametrization": "flat"}
    for config in (T5, GPT2):
        built = programs(config, prompt=flat)
        counted = train_products(built.model, 8, built.lengths.inputs, built.lengths.targets)
        with planned_for("tpu"):
            step = jax.make_jaxpr(built.train_step())(built.state, built.frozen, built.batch)
        extra = besides(built.model, 8, built.lengths.inputs, built.lengths.targets)
        assert products(step.jaxpr) == counted.forward + counted.backward(weights_train=False) + extra


def test_flops_and_xla_s_own_count(programs):
    """XLA counts the elementwise work too: a few per cent at this width."""
    built = programs(train={"batch_size": 8, "dropout": False})
    counted = train_products(built.model, 8, built.lengths.inputs, built.lengths.targets)
    model = built.model.lm.module.clone(unroll=2)  # of a loop XLA counts the body once
    forward = jax.jit(lambda params, batch, injection: model.apply({"params": params}, batch, injection))
    injection = jax.eval_shape(built.model.injection, {"prompt": built.state.trainable["prompt"]})
    xla = forward.lower(built.frozen["model"], built.batch, injection).cost_analysis()["flops"]
    assert counted.forward == pytest.approx(xla, rel=0.08)
    assert counted.forward < xla


def test_shares_are_what_xla_finds(programs):
    """On a mesh of CPUs: what each kind of argument takes of a device, against the compiled step."""
    train = {"batch_size": 8, "dropout": False}
    built = programs(SMALL, devices=4, mesh={"data": 2, "model": 2}, model={"shard_data": True}, train=train)
    parts = (built.frozen, built.state, built.batch)
    found = built.lower_train_step().compile().memory_analysis()
    unread = device_bytes((built.batch.index, built.state.key))  # without dropout
    assert found.argument_size_in_bytes == sum(map(device_bytes, parts)) - unread
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(built.frozen))
    assert whole / 4 < device_bytes(built.frozen) < whole / 3.5  # norms are not split
    assert device_bytes(built.state.trainable) == 8 * 32 * 4


def test_evaluation_s_programs(programs):
    """A cache lies where the prefill leaves it; beams are rows of their own."""
    search = {"method": "beam", "num_beams": 3, "batch_size": 4}
    built = programs(SMALL, devices=2, mesh={"model": 2}, eval=search)
    lowered = built.lower_prefill()
    prefill = lowered.compile()
    step = built.lower_decode_step(prefill, lowered)
    logits, cache = step.out_info
    assert logits.shape == (12, 128)
    assert cache.self_keys.shape[:3] == (1, 12, 4)
    assert cache.cross_mask.shape[0] == 4
    assert step.compile().memory_analysis().alias_size_in_bytes > 0


@pytest.mark.parametrize(
    ("config", "sections", "lengths"),
    [
        (T5, {}, Lengths(56, 4, 56)),  # 48 of text and 8 slots
        (T5, {"prompt": {"length": 5}}, Lengths(56, 4, 56)),  # 53, in a bucket of 56
        (T5, {"prompt": {"method": "prefix_tuning", "length": 8}}, Lengths(48, 4, 48)),
        (GPT2, {}, Lengths(56, 4, 48)),  # the slots are keys and values; the target's first three are read
        (GPT2, {"corpus": {"objective": "causal_lm", "row_length": 40}}, Lengths(40, 40, 40)),
        (T5, {"corpus": {"objective": "prefix_lm", "row_length": 40, "row_targets": 24}}, Lengths(40, 24, 40)),
    ],
)
def test_lengths_of_rows(programs, config, sections, lengths):
    assert programs(config, **sections).lengths == lengths


def test_tasks_by_name_or_source_alone():
    read = lambda **task: task_format(Experiment.from_dict({"task": task}))  # noqa: E731
    assert read(source="tfds:super_glue/boolq").name == "boolq"
    assert read(source="mini:sentiment").name == "sentiment"
    assert read(source="jsonl:data", max_input_length=7, max_target_length=3).max_input_length == 7
    with pytest.raises(ConfigError, match=r"set task\.name, or task\.max_input_length and task\.max_target_length"):
        read(source="jsonl:data")


def test_a_batch_that_the_mesh_does_not_divide(programs):
    with pytest.raises(ValueError, match=r"cannot be split evenly over mesh\.data=8"):
        programs(devices=8, train={"batch_size": 12})


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'which is not installed: pip install "jax\[tpu\]"'):
        describe_devices(find_slice("v5e-4"))
