"""The largest model's training step: what each device holds of it, by the compiler's own account."""

import math

import jax
import jax.numpy as jnp
import pytest
from nano import quick_compilation  # noqa: F401

from jaxprompt.experiment import Experiment
from jaxprompt.planning.step_program import build_programs

WEIGHTS = 11_135_332_352  # of T5 1.1 XXL
# Fields of a batch that a step does not read are left out of its arguments.
UNREAD = 1024


def compiled(data, model, shard_data):
    """(bytes of a device's arguments as the shardings have them, the compiler's account of the step)."""
    sections = {
        # fp32, for a CPU's compiler would make fp32 copies of anything less.
        "model": {"path": "google/t5-xxl-lm-adapt", "dtype": "float32", "remat": "full", "shard_data": shard_data},
        "mesh": {"data": data, "model": model},
        "prompt": {"length": 20, "init": "random"},
        "task": {"name": "rte", "source": "tfds:super_glue/rte", "max_input_length": 44, "max_target_length": 8},
        "train": {"batch_size": 8},
    }
    programs = build_programs(Experiment.from_dict(sections), jax.devices())
    memory = programs.lower_train_step().compile().memory_analysis()
    arguments = jax.tree.leaves((programs.state, programs.frozen, programs.batch))
    return sum(map(bytes_on_a_device, arguments)), memory


def bytes_on_a_device(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
        return leaf.size * leaf.dtype.itemsize
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def test_what_a_device_holds_falls_with_the_mesh_as_computed():
    held = {}
    for mesh, parts in (((8, 1, False), 1), ((2, 4, False), 4), ((2, 4, True), 8)):
        computed, memory = compiled(*mesh)
        held[mesh] = memory.argument_size_in_bytes
        assert computed - UNREAD <= memory.argument_size_in_bytes <= computed
        assert memory.argument_size_in_bytes == pytest.approx(4 * WEIGHTS / parts, rel=1e-3)
        # Room for activations and for a layer or two that are gathered for their use, but for no second model.
        assert memory.temp_size_in_bytes < 2**31
        assert memory.output_size_in_bytes < 2**20, "a prompt, its statistics, and numbers"
    assert held[8, 1, False] > 3.9 * held[2, 4, False]
    assert held[2, 4, False] > 1.9 * held[2, 4, True]
