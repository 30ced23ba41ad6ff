"""Eight devices compute what one does, and how arrays come onto a mesh and back."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import sharded_pairs
from jax.sharding import PartitionSpec
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt import sharding
from jaxprompt.training.loss import LossConfig
from jaxprompt.training.optim import TUNE_MODEL, OptimConfig, make_optimizer, split_trainable
from jaxprompt.training.step import init_state, make_train_step

CASES = sharded_pairs.cases()
# Each mesh with each family, the methods taking turns: every method meets tensor parallelism and full sharding.
SOME = [case for number, case in enumerate(CASES) if number % 3 == (number // 3) % 3]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return sharded_pairs.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alone(directories):
    """On one device, by family and method."""
    return functools.cache(
        lambda family, method: sharded_pairs.outcome(sharded_pairs.load(directories[family]), method)
    )


@pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.family}-{case.method}-{case.mesh}")
def test_eight_devices_are_one(directories, alone, case):
    found, expected = sharded_pairs.on_mesh(directories[case.family], case), alone(case.family, case.method)
    assert all(np.abs(leaf).max() > 0 for leaf in expected.gradient)
    differences = sharded_pairs.differences(found, expected)
    assert differences.hold, differences
    assert all(place.is_fully_replicated for place in found.shardings), "what trains is on every device"


def test_the_cases_held_here_meet_every_method_and_mesh():
    assert {(case.family, case.mesh) for case in SOME} == {(case.family, case.mesh) for case in CASES}
    assert {(case.family, case.method) for case in SOME} == {(case.family, case.method) for case in CASES}


def test_weights_that_train_stay_split_and_so_do_their_statistics(directories):
    method, outcomes = jp.PromptTuning(length=3, init="random"), []
    for mesh in (None, sharding.make_mesh(4, 2, devices=jax.devices())):
        lm = sharded_pairs.load(directories["t5"], mesh=mesh, shard_data=mesh is not None)
        model = jp.patch(lm, method)
        trainable, frozen = split_trainable(model.init_params(jax.random.key(1)), TUNE_MODEL)
        sgd = make_optimizer(OptimConfig("sgd", learning_rate=0.01), TUNE_MODEL, trainable)
        state = init_state(trainable, sgd, jax.random.key(2), mesh)
        places = None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, state)
        step = make_train_step(model, sgd, LossConfig(), dropout=False, shardings=places)
        batch = model.encode_text(["the film was good"] * 8, ["positive"] * 8)
        state, metrics = step(state, frozen, sharding.place_local_rows(batch, mesh))
        outcomes.append((float(metrics["loss"]), jax.tree.leaves(sharding.to_host(state.trainable))))
    assert outcomes[1][0] == pytest.approx(outcomes[0][0], rel=1e-5)
    for ours, theirs in zip(outcomes[1][1], outcomes[0][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    adam = make_optimizer(OptimConfig("adamw"), TUNE_MODEL, trainable)
    state = init_state(trainable, adam, jax.random.key(2), mesh)
    kernel = "encoder/block/feed_forward/wi_0/kernel"
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }
    specs = {name: spec for name, spec in found.items() if name.endswith(kernel)}
    assert len(specs) == 3, "the weights, and both of Adam's averages"
    assert set(specs.values()) == {PartitionSpec(None, "data", "model")}
    assert {spec for name, spec in found.items() if name.endswith("prompt/embedding")} == {PartitionSpec()}


def test_meshes_that_cannot_be_made():
    devices = jax.devices()
    assert sharding.make_mesh(1, 1, devices=devices) is None
    assert sharding.make_mesh() is None, "one device needs no mesh"
    assert dict(sharding.make_mesh(0, 2, devices=devices).shape) == {"data": 4, "model": 2}
    assert sharding.make_mesh(2, 2, devices=devices).size == 4, "one process may leave devices idle"
    for sizes, words in (
        ((0, 3), "mesh.model=3 does not divide the 8 devices"),
        ((4, 4), r"a mesh of 4 x 4 devices .* does not suit the 8 devices"),
        ((-1, 1), "must be at least 1"),
        ((1, 0), "must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            sharding.make_mesh(*sizes, devices=devices)
    mesh = sharding.make_mesh(8, 1, devices=devices)
    with pytest.raises(ValueError, match=r"train.batch_size=12 rows .* mesh.data=8 devices; make it a multiple of 8"):
        sharding.check_rows(12, mesh)
    with pytest.raises(ValueError, match="12 rows"):
        sharding.place_local_rows({"inputs": np.zeros((12, 3))}, mesh)
    assert sharding.place_rows({"inputs": np.zeros((12, 3))}, mesh)["inputs"].sharding.is_fully_replicated


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    process_index: int
    coords: tuple = ()
    core_on_chip: int = 0


def slice_of(*shape, cores=1):
    return [
        FakeDevice(0, (*place, *[0] * (3 - len(shape))), core) for place in np.ndindex(*shape) for core in range(cores)
    ]


def test_the_chips_of_a_group_stand_together():
    """A group that extends along two axes of the interconnect has two links, a line of chips one."""

    def first_group(devices, data, model):
        return {(*device.coords[:2], device.core_on_chip) for device in sharding._in_blocks(devices, data, model)[0]}

    assert first_group(slice_of(4, 4), 4, 4) == {(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)}
    assert len(first_group(slice_of(4, 4), 8, 2)) == 2
    assert first_group(slice_of(2, 2, cores=2), 4, 2) == {(0, 0, 0), (0, 0, 1)}, "the cores of a chip first"
    blocks = sharding._in_blocks(slice_of(2, 4), 2, 4)
    assert blocks.shape == (2, 4)
    assert len({device.coords for device in blocks.flat}) == 8
    assert sharding._in_blocks(slice_of(4, 4), 2, 4) is None, "not the whole slice"
    assert sharding._in_blocks(jax.devices(), 4, 2) is None, "no places are known"


@pytest.mark.parametrize(
    ("processes", "share"),
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], (0, 2)),  # two processes, four devices each
        ([[0, 1], [0, 1], [0, 1], [0, 1]], (0, 1)),  # `model` runs across them: both read all rows
        ([[1, 1], [0, 0], [3, 3], [2, 2]], (1, 4)),  # in the order of the rows, whatever the processes' numbers
        ([[1, 2], [0, 3]], (1, 2)),
    ],
)
def test_processes_read_the_rows_that_their_devices_hold(processes, share):
    class Layout:
        devices = np.array([[FakeDevice(index) for index in row] for row in processes], object)
        shape = {"data": len(processes), "model": len(processes[0])}  # noqa: RUF012

    assert sharding.data_share(Layout()) == share  # this is process 0


def test_processes_with_uneven_shares_are_refused():
    class Layout:
        devices = np.array([[FakeDevice(0), FakeDevice(0)], [FakeDevice(0), FakeDevice(1)]], object)
        shape = {"data": 2, "model": 2}  # noqa: RUF012

    with pytest.raises(ValueError, match="no even split"):
        sharding.data_share(Layout())
