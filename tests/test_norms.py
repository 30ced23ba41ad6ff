"""GPT-2's norm beside torch's, and its dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.models.dropout import Dropout
from jaxprompt.models.norms import LayerNorm


@pytest.mark.parametrize("mean", [0.0, 300.0], ids=["centred", "far"])
def test_norm_and_gradients_are_those_of_torch(mean):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = (mean + rng.normal(size=(2, 5, 32))).astype(np.float32)
    scale, bias, d_out = (rng.normal(size=shape).astype(np.float32) for shape in ((32,), (32,), x.shape))
    inputs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, scale, bias)]
    expected = torch.nn.functional.layer_norm(inputs[0], (32,), inputs[1], inputs[2], 1e-5)
    expected.backward(torch.tensor(d_out, dtype=torch.float64))
    norm = lambda x, scale, bias: LayerNorm(1e-5, jnp.float32).apply({"params": {"scale": scale, "bias": bias}}, x)  # noqa: E731
    found, back = jax.vjp(norm, x, scale, bias)
    tolerance = 1e-5 if not mean else 2e-4  # fp32 has 3e-5 left of a number at 300
    np.testing.assert_allclose(found, expected.detach(), rtol=0, atol=tolerance)
    for ours, theirs in zip(back(d_out), inputs, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("shape", [(64, 1001), (3, 5)])
def test_dropout_keeps_the_mean_and_draws_each_element(shape):
    x = jnp.ones(shape)
    draw = lambda seed: Dropout(0.1, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(seed)})  # noqa: E731
    one = np.asarray(draw(0))
    assert one.shape == shape
    assert set(np.unique(one)) <= {np.float32(0), np.float32(256 / 230)}
    np.testing.assert_array_equal(one, draw(0))
    if one.size < 1000:
        return
    assert (one != draw(1)).any()
    # Four standard deviations of 64,064 draws, and of each word's four bytes by itself.
    assert abs((one == 0).mean() - 26 / 256) < 4 * np.sqrt(0.1 * 0.9 / one.size)
    for byte in range(4):
        part = one.reshape(-1)[byte::4]
        assert abs((part == 0).mean() - 26 / 256) < 4 * np.sqrt(0.1 * 0.9 / part.size)
        assert abs(np.corrcoef(part[:-1] == 0, one.reshape(-1)[(byte + 1) % 4 :: 4][: part.size - 1] == 0)[0, 1]) < 0.04


@pytest.mark.parametrize(("rate", "kept"), [(0.001, 255), (0.999, 1)])
def test_extreme_rates_keep_and_drop_something(rate, kept):
    x = jnp.ones(100_000)
    found = np.asarray(Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert abs((found > 0).mean() - kept / 256) < 4 * np.sqrt(1 / 256 / found.size)


def test_no_dropout_changes_nothing():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(0.5, deterministic=True).apply({}, x), x)
    np.testing.assert_array_equal(Dropout(0.0, deterministic=False).apply({}, x), x)
