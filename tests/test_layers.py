import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt import sharding
from jaxprompt.models import attention, layers

V, E, P = 7, 4, 3
TABLE = np.arange(V * E, dtype=np.float32).reshape(V, E)
TOKENS = -1.0 - np.arange(P * E, dtype=np.float32).reshape(P, E)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Embedding


def test_ids_from_v_on_read_the_prompt():
    ids = np.array([[0, V - 1, V, V + P - 1, 3]])
    found = layers.embed(ids, TABLE, TOKENS)
    np.testing.assert_array_equal(found[0], [TABLE[0], TABLE[-1], TOKENS[0], TOKENS[-1], TABLE[3]])
    np.testing.assert_array_equal(layers.embed(ids[:, :2], TABLE), TABLE[ids[:, :2]])


def test_each_row_may_have_its_own_prompt():
    tokens = np.stack([TOKENS, 10 * TOKENS])
    ids = np.array([[V, 1, V + 2], [2, V + 2, V + 1]])
    found = layers.embed(ids, TABLE, tokens)
    for row in range(2):
        np.testing.assert_array_equal(found[row], layers.embed(ids[row : row + 1], TABLE, tokens[row])[0])


def test_an_id_that_names_nothing_is_nan():
    for tokens, beyond in ((None, V), (TOKENS, V + P), (np.stack([TOKENS, TOKENS]), V + P)):
        ids = np.array([[1, beyond], [-1, -V]])
        wrong = np.isnan(layers.embed(ids, TABLE, tokens))
        assert wrong.all(-1).tolist() == [[False, True], [True, True]]
        assert not wrong[0, 0].any()


def test_the_prompt_is_read_in_the_tables_dtype():
    found = layers.embed(np.array([[1, V]]), jnp.asarray(TABLE, jnp.bfloat16), jnp.asarray(TOKENS) / 3)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[0, 1], (jnp.asarray(TOKENS[0]) / 3).astype(jnp.bfloat16))


def test_gradients_reach_just_the_rows_that_were_read():
    ids = np.array([[V + 1, 2, V + 1, V]])
    rows, tokens = jax.grad(lambda table, tokens: layers.embed(ids, table, tokens).sum(), argnums=(0, 1))(TABLE, TOKENS)
    np.testing.assert_array_equal(rows[:, 0], np.eye(V)[2])
    np.testing.assert_array_equal(tokens[:, 0], [1, 2, 0])


# Attention


def test_segment_mask():
    queries, keys = np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0]])
    mask = attention.segment_mask(queries, keys)
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].astype(int).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    causal = attention.segment_mask(queries, queries, causal=True)
    assert causal[0, 0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.fixture(params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """Each of the ways in which platforms compute attention, on this one."""
    monkeypatch.setattr(attention.platforms, "platform", lambda mesh: request.param)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_attention_is_torchs(scale):
    torch = pytest.importorskip("torch")
    query, key, value = normal(2, 5, 3, 4), normal(2, 6, 3, 4, seed=1), normal(2, 6, 3, 4, seed=2)
    bias, mask = normal(1, 3, 5, 6, seed=3), normal(2, 1, 5, 6, seed=4) > -0.5
    mask[..., 0] = True
    heads_first = lambda x: torch.tensor(x).transpose(1, 2)  # noqa: E731
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(heads_first, (query, key, value)),
        attn_mask=torch.tensor(np.where(mask, bias, -np.inf).astype(np.float32)),
        scale=scale,
    ).transpose(1, 2)
    found = attention.attend(query, key, value, mask=mask, bias=bias, scale=scale)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.usefixtures("platform")
def test_gradients_of_attention_are_torchs():
    torch = pytest.importorskip("torch")
    arrays = [normal(2, 5, 3, 4), normal(2, 6, 3, 4, seed=1), normal(2, 6, 3, 4, seed=2), normal(1, 3, 5, 6, seed=3)]
    mask, kept = normal(2, 1, 5, 6, seed=4) > -0.5, 2.0 * (normal(2, 3, 5, 6, seed=5) > 0)
    mask[..., 0] = True

    def found(query, key, value, bias):
        out = attention.attend(query, key, value, mask=mask, bias=bias, scale=0.5, dropout=lambda ones: ones * kept)
        return (out**2).sum()

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    query, key, value = (tensor.transpose(1, 2) for tensor in tensors[:3])
    scores = (query @ key.transpose(2, 3) * 0.5 + tensors[3]).masked_fill(~torch.tensor(mask), -np.inf)
    (((scores.softmax(-1) * torch.tensor(kept.astype(np.float32))) @ value) ** 2).sum().backward()
    gradients = jax.grad(found, argnums=(0, 1, 2, 3))(*arrays)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("own_bias", [False, True])
def test_scores_made_a_few_rows_at_a_time_are_those_of_all_rows(monkeypatch, own_bias):
    arrays = [normal(4, 5, 2, 4), normal(4, 6, 2, 4, seed=1), normal(4, 6, 2, 4, seed=2)]
    bias = normal(4 if own_bias else 1, 2, 5, 6, seed=3)
    mask, kept = normal(4, 1, 5, 6, seed=4) > -0.5, 2.0 * (normal(4, 2, 5, 6, seed=5) > 0)
    mask[..., 0] = True
    drop = lambda ones: ones * kept  # noqa: E731

    def outcome(mesh):
        def loss(query, key, value, bias):
            dropped = attention.attend(query, key, value, mask=mask, scale=0.5, dropout=drop, mesh=mesh)
            biased = attention.attend(query, key, value, mask=mask, bias=bias, mesh=mesh)
            return (dropped**2).sum() + (biased**2).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*arrays, bias)

    expected = outcome(None)
    assert attention._row_parts(arrays[0], 6, None) == (1, 1), "on a CPU all at once"
    row = 4 * 2 * 5 * 6
    two = sharding.make_mesh(2, 1, devices=jax.devices())
    for fast_bytes, mesh, parts in ((2 * row, None, (1, 2)), (1, None, (1, 4)), (row, two, (2, 2))):
        monkeypatch.setattr(attention, "_FAST_BYTES", fast_bytes)
        monkeypatch.setattr(attention.platforms, "platform", lambda mesh: "tpu")
        assert attention._row_parts(arrays[0], 6, mesh) == parts
        for ours, theirs in zip(jax.tree.leaves(outcome(mesh)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_dropping_keys_is_dropping_weights_alike_for_all_queries():
    query, key, value = normal(2, 5, 3, 4), normal(2, 6, 3, 4, seed=1), normal(2, 6, 3, 4, seed=2)
    factors, mask = normal(2, 3, 1, 6, seed=3), np.ones((1, 1, 5, 6), bool)
    expected = attention.attend(query, key, value, mask=mask, dropout=lambda ones: ones * factors)
    positions_lead = factors.transpose(3, 0, 2, 1)
    found = attention.attend(query, key, attention.drop_keys(value, lambda ones: ones * positions_lead), mask=mask)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_without_projecting_its_source_is_attention():
    query, source, mask = normal(2, 3, 4, 6), normal(2, 9, 8, seed=1), normal(2, 1, 3, 9, seed=2) > -0.5
    mask[..., 0] = True
    kernels = normal(8, 4, 6, seed=3) / 3, normal(8, 4, 6, seed=4) / 3
    keys, values = (np.einsum("bke,ehd->bkhd", source, kernel) for kernel in kernels)
    halved = lambda weights: weights.at[..., ::2].multiply(0.5)  # noqa: E731
    positions_lead = lambda weights: weights.at[::2].multiply(0.5)  # noqa: E731
    for of_weights, dropout in ((None, None), (halved, positions_lead)):
        expected = attention.attend(query, keys, values, mask=mask, dropout=of_weights)
        for groups in (1, 2, 4):
            copies = np.broadcast_to(source, (groups, *source.shape))
            found = attention.attend_unprojected(query, copies, *kernels, mask=mask, dropout=dropout)
            np.testing.assert_allclose(found, expected, atol=1e-5)
    for projected, kernel in zip((keys, values), kernels, strict=True):
        np.testing.assert_allclose(attention.project_copies(source[None], kernel), projected, atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite_and_so_does_its_gradient():
    query, key, value = normal(1, 2, 1, 4), normal(1, 3, 1, 4, seed=1), normal(1, 3, 1, 4, seed=2)
    mask = np.zeros((1, 1, 2, 3), bool)
    mask[:, :, 1] = True
    attend = lambda *args: attention.attend(*args, mask=mask)  # noqa: E731
    assert np.isfinite(attend(query, key, value)).all()
    gradients = jax.grad(lambda *args: (attend(*args) ** 2).sum(), argnums=(0, 1, 2))(query, key, value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_softmax_is_taken_in_fp32():
    # In bf16 weights of 1/1000 near sums of 1 would be lost: 1 + 1/1000 rounds to 1.
    key = jnp.zeros((1, 1001, 1, 1), jnp.bfloat16)
    query, value = jnp.zeros((1, 1, 1, 1), jnp.bfloat16), jnp.ones((1, 1001, 1, 1), jnp.bfloat16)
    found = attention.attend(query, key, value, mask=np.ones((1, 1, 1, 1001), bool))
    assert found.dtype == jnp.bfloat16
    assert abs(float(found[0, 0, 0, 0]) - 1) <= 2**-8


def test_a_prefix_is_seen_by_every_query_and_stands_in_front():
    key, value, mask = normal(2, 3, 2, 4), normal(2, 3, 2, 4, seed=1), np.zeros((2, 1, 5, 3), bool)
    one = normal(6, 2, 4, seed=2), normal(6, 2, 4, seed=3)
    rows = np.stack([one[0], 2 * one[0]]), np.stack([one[1], 3 * one[1]])
    for prefix in (one, rows):
        keys, values, seen = attention.with_prefix(key, value, mask, prefix)
        np.testing.assert_array_equal(keys, np.concatenate([np.broadcast_to(prefix[0], (2, 6, 2, 4)), key], 1))
        np.testing.assert_array_equal(values, np.concatenate([np.broadcast_to(prefix[1], (2, 6, 2, 4)), value], 1))
        assert seen.shape == (2, 1, 5, 9)
        assert seen[..., :6].all()
        assert not seen[..., 6:].any()
    assert attention.with_prefix(key, value, mask, None) == (key, value, mask)


# Norm, feed-forward, dropout


def test_norm_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    x, scale = normal(3, 5, 8) * 3, normal(8, seed=1)
    theirs = modeling.T5LayerNorm(8, eps=1e-3)
    theirs.weight.data = torch.tensor(scale)
    ours = layers.RMSNorm(1e-3, jnp.float32).apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(ours, theirs(torch.tensor(x)).detach().numpy(), atol=1e-6)


def test_norm_of_large_bf16_numbers_is_taken_in_fp32():
    # 300² overflows nothing, but 8 bits cannot add 512 squares.
    x = jnp.full((1, 512), 300.0, jnp.bfloat16)
    found = layers.RMSNorm(1e-6, jnp.bfloat16).apply({"params": {"scale": jnp.ones(512, jnp.bfloat16)}}, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), 1.0)


@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_activations_are_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    np.testing.assert_allclose(
        layers.ACTIVATIONS[name](jnp.asarray(x)), activations.ACT2FN[name](torch.tensor(x)).numpy(), atol=2e-6
    )


def test_dropout_drops_the_same_features_at_every_position():
    x = np.ones((4, 9, 64), np.float32)
    module = layers.dropout(0.25, deterministic=False)
    dropped = np.asarray(module.apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert not np.array_equal(dropped[0], dropped[1])
    kept = np.asarray(layers.dropout(0.25, deterministic=True).apply({}, x))
    np.testing.assert_array_equal(kept, x)
