"""Checkpoints: exact round trips, retention, and what happens when files are damaged."""

import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprompt.prompts.method import TRAIN_PROMPT
from jaxprompt.training.checkpoint import CheckpointMismatch, Checkpoints, UnreadableCheckpoint
from jaxprompt.training.optim import make_optimizer, preset

WIDTH = 300  # wide enough for arrays to have files of their own


def _optimizer(params):
    return make_optimizer(preset("modern", warmup_steps=1), TRAIN_PROMPT, params, 100)


def _state(length=4, seed=0, prompts=None):
    params = {"prompt": {"embedding": jax.random.normal(jax.random.key(seed), (length, WIDTH))}}
    key = jax.random.key(seed + 1)
    if prompts:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf + n for n in range(prompts)]), params)
        key = jax.random.split(key, prompts)
        opt_state = jax.vmap(_optimizer(params).init)(params)
    else:
        opt_state = _optimizer(params).init(params)
    return {
        "step": jnp.asarray(seed, jnp.int32),
        "trainable": params,
        "opt_state": opt_state,
        "key": key,
        "average": params["prompt"]["embedding"].astype(jnp.bfloat16),
    }


@jax.jit
def _train(state):
    """A step that depends on every part of the state."""
    params = state["trainable"]
    noise = jax.random.normal(jax.random.fold_in(state["key"], state["step"]), params["prompt"]["embedding"].shape)
    gradients = jax.tree.map(lambda leaf: leaf + noise, params)
    updates, opt_state = _optimizer(params).update(gradients, state["opt_state"], params)
    params = optax.apply_updates(params, updates)
    return state | {"step": state["step"] + 1, "trainable": params, "opt_state": opt_state}


def _bits(tree):
    raw = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [(leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(raw)]


def _assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert _bits(left) == _bits(right)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("prompts", [None, 3])
def test_every_bit_of_a_state_comes_back(tmp_path, prompts, impl):
    state = _state(prompts=prompts) | {"extra_key": jax.random.key(7, impl=impl)}
    data_state = {"epoch": 3, "next": [1, 2], "nested": {"position": 2**40}}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(5, state, data_state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    _assert_same(restored.state, state)
    assert (restored.step, restored.data_state) == (5, data_state)
    assert jax.random.key_impl(restored.state["extra_key"]) == impl


@pytest.mark.parametrize("asynchronous", [False, True])
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path, asynchronous):
    state = _state()
    with Checkpoints(tmp_path, keep=9, asynchronous=asynchronous) as checkpoints:
        for step in range(1, 5):
            state = _train(state)
            checkpoints.save(step, state, {"position": step})
    with Checkpoints(tmp_path) as checkpoints:
        again, data_state, step = checkpoints.restore(_state(seed=9), step=2)
    assert data_state == {"position": 2}
    for _ in range(step, 4):
        again = _train(again)
    _assert_same(again, state)


def test_a_background_save_is_not_touched_by_a_donating_step(tmp_path):
    step = jax.jit(lambda state: {"w": state["w"] * 0 - 1.0}, donate_argnums=0)
    for attempt in range(3):
        state = {"w": jnp.full((1 << 20,), attempt + 1.0)}
        with Checkpoints(tmp_path / str(attempt), asynchronous=True) as checkpoints:
            checkpoints.save(1, state, {})
            for _ in range(20):
                state = step(state)
            assert float(state["w"][0]) == -1.0
            restored = checkpoints.restore(state).state
        assert np.array_equal(restored["w"], np.full((1 << 20,), attempt + 1.0, np.float32))


def test_the_newest_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, _state(), {})
        assert (checkpoints.all_steps(), checkpoints.latest_step()) == ([20, 30], 30)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(40, _state(), {})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["40"]


def _save_three(directory):
    states = {step: _state(seed=step) for step in (1, 2, 3)}
    with Checkpoints(directory, keep=3) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"position": step})
    return states


def _in_a_process_of_its_own(check, directory):
    """Calls a function of this module elsewhere.

    Where one of several concurrent reads fails, orbax abandons the others, and each complains later of its event loop
    being closed, in whatever test is then running. Harmless, but warnings are errors here.
    """
    code = f"import pathlib, sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import test_checkpoint"
    call = f"test_checkpoint.{check.__name__}(pathlib.Path({str(directory)!r}))"
    run = subprocess.run([sys.executable, "-c", f"{code}; {call}"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def check_every_damage(tmp_path):
    sound = tmp_path / "sound"
    states = _save_three(sound)
    files = [path.relative_to(sound) for path in sorted((sound / "3").rglob("*")) if path.is_file()]
    assert len(files) > 5
    fell_back = 0
    for file in files:
        for damage in ("cut", "emptied", "deleted"):
            directory = tmp_path / "damaged"
            shutil.copytree(sound, directory)
            if damage == "deleted":
                (directory / file).unlink()
            else:
                os.truncate(directory / file, (sound / file).stat().st_size // 2 if damage == "cut" else 0)
            with Checkpoints(directory) as checkpoints, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = checkpoints.restore(_state())
            _assert_same(restored.state, states[restored.step])
            assert restored.data_state == {"position": restored.step}
            # Asyncio may warn as well, of reads that orbax never waited for.
            told = [str(warning.message) for warning in caught if "is damaged" in str(warning.message)]
            if restored.step == 2:
                fell_back += 1
                assert len(told) == 1, told
                assert str(directory / "3") in told[0]
                assert "went back to step 2" in told[0]
            else:
                assert (restored.step, told) == (3, [])
            shutil.rmtree(directory)
    assert fell_back >= 10


def test_any_damaged_file_is_noticed_or_harmless(tmp_path):
    _in_a_process_of_its_own(check_every_damage, tmp_path)


def _damage(directory, step):
    for path in (directory / str(step) / "state").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def check_damaged_newest(tmp_path):
    states = _save_three(tmp_path)
    _damage(tmp_path, 3)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(UnreadableCheckpoint, match=r"/3 is damaged"):
            checkpoints.restore(_state(), step=3)
        with pytest.warns(RuntimeWarning, match=r"/3 is damaged .*; went back to step 2"):
            restored = checkpoints.restore(_state())
        _assert_same(restored.state, states[2])
        checkpoints.save(3, states[3], {"position": 3})
        assert checkpoints.all_steps() == [2, 3]
        _assert_same(checkpoints.restore(_state()).state, states[3])
    for step in (1, 2, 3):
        _damage(tmp_path, step)
    everything = pytest.raises(UnreadableCheckpoint, match=r"no checkpoint in .* can be read: .*/3 .*/2 ")
    with Checkpoints(tmp_path) as checkpoints, everything:
        checkpoints.restore(_state())


def test_a_damaged_newest_checkpoint_is_passed_over_and_then_replaced(tmp_path):
    _in_a_process_of_its_own(check_damaged_newest, tmp_path)


INTERRUPTED = """
import os, signal, sys, threading
import jax.numpy as jnp
from jaxprompt.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=3)
checkpoints.save(1, {"w": jnp.full((1 << 10,), 1.0)}, {"position": 1})
big = {"w": jnp.arange(1 << 24, dtype=jnp.float32) % 1009}
threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
for step in range(2, 1000):
    checkpoints.save(step, big, {"position": step})
"""


def test_a_killed_save_leaves_nothing_that_counts(tmp_path):
    """A process is killed while it writes; what it leaves behind must neither be read nor stand in the way."""
    killed = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path), "0.3"], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    big = {"w": jnp.arange(1 << 24, dtype=jnp.float32) % 1009}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        latest = checkpoints.latest_step()
        expected = big if latest > 1 else {"w": jnp.full((1 << 10,), 1.0)}
        restored = checkpoints.restore(expected)
        assert restored.data_state == {"position": latest}
        _assert_same(restored.state, expected)
        checkpoints.save(latest + 1, expected, {"position": latest + 1})
        assert checkpoints.latest_step() == latest + 1


def test_another_runs_checkpoint_is_refused_with_both_shapes(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(length=4), {})
        both = r"trainable/prompt/embedding: the checkpoint \[4, 300\] float32, this run \[6, 300\] float32"
        with pytest.raises(CheckpointMismatch, match=both + r"[\s\S]*use a new workdir"):
            checkpoints.restore(_state(length=6))
        with pytest.raises(CheckpointMismatch, match=r"key: the checkpoint \[\] key<fry>, this run has none"):
            checkpoints.restore({"step": jnp.zeros((), jnp.int32)})
        with pytest.raises(CheckpointMismatch, match=r"key<fry>, this run \[\] key<rbg>"):
            checkpoints.restore(_state() | {"key": jax.random.key(0, impl="rbg")})


def test_requests_that_cannot_be_met(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
            checkpoints.restore(_state())
        with pytest.raises(TypeError, match="data_state must consist of JSON values"):
            checkpoints.save(1, _state(), {"pair": (1, 2)})
        with pytest.raises(TypeError, match=r"arrays only.*: step"):
            checkpoints.save(1, {"step": 3}, {})
        checkpoints.save(2, _state(), {})
        with pytest.raises(FileNotFoundError, match=r"holds the steps \[2\], not 1"):
            checkpoints.restore(_state(), step=1)
        for step in (1, 2):  # a run that got further stands there
            with pytest.raises(FileExistsError, match=rf"cannot save step {step}: .* already holds step 2"):
                checkpoints.save(step, _state(), {})


def test_a_prompts_checkpoint_is_small_and_quiet(tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(length=100), {})
        checkpoints.restore(_state(length=100))
    assert capfd.readouterr() == ("", "")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 450_000


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxprompt.training.checkpoint import Checkpoints
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
place = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))
weights = np.random.default_rng(0).normal(size=(16, 24)).astype("f4")
state = {"w": jax.device_put(weights, place("data", "model")), "key": jax.device_put(jax.random.key(3), place())}
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state, {})
    for spec in [(), ("model",), (None, ("data", "model"))]:
        abstract = {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=place(*spec)), "key": state["key"]}
        restored = checkpoints.restore(abstract).state
        assert restored["w"].sharding == place(*spec), restored["w"].sharding
        assert restored["key"].sharding.is_equivalent_to(place(), 0)
        assert np.array_equal(restored["w"], weights)
        assert jnp.array_equal(jax.random.key_data(restored["key"]), jax.random.key_data(state["key"]))
"""


def test_arrays_come_back_in_the_shardings_asked_for(tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SHARDED, str(tmp_path)], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with Checkpoints(tmp_path) as checkpoints:  # and on another number of devices
        restored = checkpoints.restore({"w": np.zeros((16, 24), np.float32), "key": jax.random.key(0)}).state
        assert np.array_equal(restored["w"], np.random.default_rng(0).normal(size=(16, 24)).astype("f4"))
