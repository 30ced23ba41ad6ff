"""The fingerprint of a model: what must change it, and what must not."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxprompt.models import fingerprint as module
from jaxprompt.models.fingerprint import fingerprint


def _model(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "shared": {"embedding": rng.normal(size=(40, 6)).astype(dtype)},
        "encoder": {"block": {"q": {"kernel": rng.normal(size=(2, 6, 3, 2)).astype(dtype)}}},
        "scale": np.asarray(1.5, dtype),
    }


def _changed(edit):
    model = _model()
    edit(model)
    return fingerprint(model)


def _scale_by(model, factor):
    model["shared"]["embedding"][39, 5] *= factor


def _swap(model):
    kernel = model["encoder"]["block"]["q"]["kernel"]
    kernel[0, 1, 2, 0], kernel[1, 1, 2, 0] = kernel[1, 1, 2, 0].copy(), kernel[0, 1, 2, 0].copy()


def _reshape(model):
    model["shared"]["embedding"] = model["shared"]["embedding"].reshape(20, 12)


def _rename(model):
    model["decoder"] = model.pop("encoder")


def _scalar(model):
    model["scale"] = np.float32(1.0)


@pytest.mark.parametrize(
    "edit",
    [lambda model: _scale_by(model, 1.01), lambda model: _scale_by(model, -1), _swap, _reshape, _rename, _scalar],
)
def test_a_change_shows(edit):
    assert _changed(edit) != fingerprint(_model())


def test_every_single_value_counts():
    base = np.ones((5, 7), np.float32)
    seen = {fingerprint({"w": base})}
    for index in np.ndindex(base.shape):
        other = base.copy()
        other[index] = 2.0
        seen.add(fingerprint({"w": other}))
    assert len(seen) == base.size + 1


def test_the_type_it_was_loaded_in_does_not_show():
    model = _model()
    expected = fingerprint(model)
    assert len(expected) == 16
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), model)
    assert fingerprint(rounded) == expected
    assert fingerprint(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)) == expected
    assert fingerprint(jax.tree.map(jnp.asarray, model)) == expected
    assert fingerprint(_model(np.float16)) != expected  # float16 rounds otherwise than bfloat16


def test_rounding_is_that_of_ml_dtypes():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    bits[: 2**9] = np.arange(2**9, dtype=np.uint32) << 15 | 0x3F800000  # exact values and ties
    values = bits.view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) >= np.finfo(np.float32).tiny)]
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(jax.jit(module._bfloat16_bits)(values), expected)
    subnormal = np.asarray([1e-40, -1e-40, 0.0, -0.0], np.float32)
    assert not np.asarray(jax.jit(module._bfloat16_bits)(subnormal)).any()


def test_the_order_of_the_tree_does_not_show():
    model = _model()
    assert fingerprint(dict(reversed(model.items()))) == fingerprint(model)


def test_no_array_of_the_models_size_is_held():
    shapes = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    memory = module._checksums.lower(shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 1024


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"'shared/ids' of type int32"):
        fingerprint({"shared": {"ids": np.zeros(3, np.int32)}})


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxprompt.models.fingerprint import fingerprint
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
weights = np.random.default_rng(0).normal(size=(16, 24)).astype("f4")
for spec in [(), ("model",), (None, "model"), ("data", "model"), (("data", "model"),)]:
    print(fingerprint({"w": jax.device_put(weights, NamedSharding(mesh, PartitionSpec(*spec)))}))
"""


def test_sharding_does_not_show():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", SHARDED], env=env, check=True, capture_output=True, text=True).stdout
    weights = np.random.default_rng(0).normal(size=(16, 24)).astype("f4")
    assert output.split() == [fingerprint({"w": weights})] * 5
