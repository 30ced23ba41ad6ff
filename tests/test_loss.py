"""The loss against torch, against numpy in float64, and against itself in parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.training.loss import LossConfig, LossSums, chunked_cross_entropy, cross_entropy

B, T, V = 4, 5, 37


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (B, T, V)).astype(np.float32)
    targets = rng.integers(0, V, (B, T)).astype(np.int32)
    targets[0, 0] = logits[0, 0].argmax()
    weights = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    return logits, targets, weights


def _loss_and_gradient(logits, targets, weights, config):
    (loss, sums), gradient = jax.value_and_grad(cross_entropy, has_aux=True)(logits, targets, weights, config)
    return float(loss), sums, np.asarray(gradient)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("normalization", ["sum", "tokens"])
def test_matches_torch_in_value_and_gradient(batch, normalization, smoothing):
    torch = pytest.importorskip("torch")
    logits, targets, weights = batch
    ours, _, gradient = _loss_and_gradient(*batch, LossConfig(normalization, z_loss=0.0, label_smoothing=smoothing))
    theirs_logits = torch.tensor(logits.reshape(-1, V), requires_grad=True)
    labels = torch.tensor(np.where(weights > 0, targets, -100).reshape(-1), dtype=torch.long)
    theirs = torch.nn.functional.cross_entropy(
        theirs_logits,
        labels,
        ignore_index=-100,
        label_smoothing=smoothing,
        reduction="sum" if normalization == "sum" else "mean",
    )
    theirs.backward()
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient.reshape(-1, V), theirs_logits.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize(("normalization", "divisor"), [("sum", 1), ("tokens", 8), ("examples", 3)])
def test_z_loss_and_normalizations_match_numpy(batch, normalization, divisor):
    logits, targets, weights = batch
    z_loss = 1e-2
    exact = logits.astype(np.float64)
    log_z = np.log(np.exp(exact).sum(-1))
    nll = log_z - np.take_along_axis(exact, targets[..., None], -1)[..., 0]
    expected = ((nll + z_loss * log_z**2) * weights).sum() / divisor
    softmax = np.exp(exact - log_z[..., None])
    expected_gradient = softmax * (1 + 2 * z_loss * log_z[..., None]) - np.eye(V)[targets]
    expected_gradient *= weights[..., None] / divisor

    loss, sums, gradient = _loss_and_gradient(*batch, LossConfig(normalization, z_loss=z_loss))
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)
    metrics = {name: float(value) for name, value in sums.metrics().items()}
    assert metrics["loss"] == pytest.approx(loss)
    assert metrics["z_loss"] == pytest.approx((z_loss * log_z**2 * weights).sum() / divisor, rel=1e-5)
    assert metrics["token_cross_entropy"] == pytest.approx((nll * weights).sum() / 8, rel=1e-5)
    assert metrics["token_accuracy"] == pytest.approx(((logits.argmax(-1) == targets) * weights).sum() / 8)
    assert (metrics["num_tokens"], metrics["num_examples"]) == (8, 3)


@pytest.mark.parametrize("normalization", ["sum", "tokens", "examples"])
def test_accumulated_parts_equal_the_whole(batch, normalization):
    config = LossConfig(normalization)
    loss, sums, gradient = _loss_and_gradient(*batch, config)

    def numerator(*part):
        sums = cross_entropy(*part, config)[1]
        return sums.numerator, sums

    # Uneven on purpose: the parts hold 7 and 1 target tokens.
    parts = [[array[rows] for array in batch] for rows in (slice(0, 2), slice(2, 4))]
    results = [jax.value_and_grad(numerator, has_aux=True)(*part) for part in parts]
    total = functools.reduce(LossSums.__add__, [part_sums for (_, part_sums), _ in results])
    accumulated = np.concatenate([part_gradient for _, part_gradient in results]) / total.denominator
    assert float(total.loss) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(accumulated, gradient, atol=1e-6)
    for name, value in total.metrics().items():
        assert float(value) == pytest.approx(float(sums.metrics()[name]), rel=1e-6), name


def test_packed_rows_count_their_segments(batch):
    logits, targets, _ = batch
    segments = np.array([[1, 1, 2, 2, 3], [1, 1, 1, 1, 1], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    weights = (segments > 0).astype(np.float32)
    _, sums = cross_entropy(logits, targets, weights, LossConfig("examples"), segments)
    assert float(sums.examples) == 6
    assert float(sums.loss) == pytest.approx(float(sums.numerator) / 6)


@pytest.mark.parametrize("normalization", ["sum", "tokens", "examples"])
def test_a_batch_of_fillers_has_no_loss_and_no_gradient(batch, normalization):
    logits, targets, weights = batch
    loss, _, gradient = _loss_and_gradient(logits, targets, 0 * weights, LossConfig(normalization))
    assert loss == 0
    assert not gradient.any()


def test_padding_cannot_reach_the_gradient(batch):
    logits, targets, weights = batch
    changed = np.where(weights > 0, targets, V + 10)
    before = _loss_and_gradient(logits, targets, weights, LossConfig())
    after = _loss_and_gradient(logits, changed, weights, LossConfig())
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[2], after[2])


def test_half_precision_logits_are_summed_in_fp32():
    rows = 4096
    logits = jnp.zeros((rows, 1, 8), jnp.bfloat16)
    loss, sums = cross_entropy(logits, np.zeros((rows, 1), np.int32), np.ones((rows, 1)), LossConfig(z_loss=0.0))
    assert loss.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(sums))
    assert float(loss) == pytest.approx(rows * np.log(8), rel=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"normalization": "token"}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"z_loss": -1.0}]
)
def test_config_rejects_what_it_cannot_mean(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(LossConfig(), **wrong)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("normalization", ["sum", "tokens", "examples"])
def test_a_few_targets_at_a_time_give_the_same(batch, normalization, chunk):
    """Every sum, and the gradients of hidden states and of the head; 2 does not divide the targets."""
    _, targets, weights = batch
    rng = np.random.default_rng(1)
    hidden, head = rng.normal(size=(B, T, 6)).astype(np.float32), rng.normal(size=(6, V)).astype(np.float32)
    config = LossConfig(normalization, label_smoothing=0.1)
    segments = np.where(weights > 0, np.array([1, 1, 2, 2, 3]), 0).astype(np.int32)

    def whole(hidden, head):
        return cross_entropy(hidden @ head, targets, weights, config, segments)

    def chunked(hidden, head):
        return chunked_cross_entropy(
            hidden, lambda hidden: hidden @ head, targets, weights, config, segments, chunk=chunk
        )

    found, expected = (jax.value_and_grad(way, argnums=(0, 1), has_aux=True)(hidden, head) for way in (chunked, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-5), found, expected)
    assert float(expected[0][1].examples) == 5
