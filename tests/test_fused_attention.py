"""Attention's kernels: which is taken where, and ours for TPUs, run as plain operations, against torch's attention."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest
import tiny_families
from jax.sharding import NamedSharding, PartitionSpec
from nano import quick_compilation  # noqa: F401
from tiny_batches import relative_difference

from jaxprompt import sharding
from jaxprompt.models import attention, attention_pallas, fused_attention
from jaxprompt.models.attention_kernels import Shape
from jaxprompt.models.gpt2 import GPT2
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import abstract_params
from jaxprompt.models.t5 import T5
from jaxprompt.models.t5_config import T5Config
from jaxprompt.types import Injection

NEEDS_COMPILER = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes of attention, and what there is besides queries, keys and values."""

    rows: int = 2
    queries: int = 20
    keys: int = 37
    heads: int = 2
    size: int = 32
    bias_rows: int = 1
    mask: str = "each"
    scale: float = 1.0


def operands(case, dtype=np.float32):
    """(query, key, value, bias or None), the mask, and the gradient of the result."""
    rng, B, Q, K = np.random.default_rng(0), case.rows, case.queries, case.keys
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    query, key, value, d_out = (draw(B, length, case.heads, case.size) for length in (Q, K, K, Q))
    bias = draw(case.bias_rows, case.heads, Q, K) if case.bias_rows else None
    mask = {
        "each": rng.random((B, 1, Q, K)) < 0.7,
        "keys": (np.arange(K) < K - 5 * np.arange(B)[:, None])[:, None, None],
        "shared": np.tril(np.ones((1, 1, Q, K), bool), K - Q),
    }[case.mask]
    mask[..., 0] = True
    return (query * case.size**-0.5, key, value, bias), mask, d_out


def passes(attend, case, mask, d_out, inputs, **options):
    """The result, and the gradients of what there is of (query, key, value, bias)."""

    @jax.jit
    def run(inputs):
        given = lambda q, k, v, bias: attend(q, k, v, mask=mask, bias=bias, scale=case.scale, **options)  # noqa: E731
        out, back = jax.vjp(given, *inputs)
        return out, *back(d_out)

    return [np.asarray(array, np.float32) for array in run(inputs) if array is not None]


kernel = functools.partial(passes, attention_pallas.attend, interpret=True)


def torch_passes(case, mask, d_out, inputs):
    """The same of torch, in double precision."""
    torch = pytest.importorskip("torch")

    tensors = [None if x is None else torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    query, key, value, bias = tensors
    added = torch.tensor(np.where(mask, 0.0, -np.inf)) + (0 if bias is None else bias)
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=added, scale=case.scale)
    out = out.transpose(1, 2)
    out.backward(torch.tensor(d_out, dtype=torch.float64))
    return [out.detach().numpy(), *(x.grad.numpy() for x in tensors if x is not None)]


@pytest.mark.parametrize(
    "case",
    [
        Case(),  # T5's: a bias that rows share; neither queries nor keys fill their tiles
        Case(rows=1, queries=400, keys=128, heads=1, size=16, mask="keys"),  # two chunks, the last with some too many
        Case(heads=7, size=16, bias_rows=2),  # heads that are fetched one by one, and a bias for each row
        Case(mask="shared", bias_rows=0, scale=0.3),  # GPT-2's
    ],
    ids=str,
)
def test_the_kernel_is_attention_and_its_gradients(case):
    inputs, mask, d_out = operands(case)
    for ours, theirs in zip(kernel(case, mask, d_out, inputs), torch_passes(case, mask, d_out, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


def test_two_byte_numbers_cost_no_more_than_they_do_in_xla():
    case = Case()
    inputs, mask, d_out = operands(case)
    exact = torch_passes(case, mask, d_out, inputs)
    rounded, d_out = (jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree) for tree in (inputs, d_out))
    error = lambda found: [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, exact, strict=True)]  # noqa: E731
    ours = error(kernel(case, mask, d_out, rounded))
    xla = error(passes(attention.attend, case, mask, d_out, rounded))
    assert max(ours) < 0.02  # of a number's 8 bits, 2^-9 at most in each of a few roundings
    assert all(a < 1.5 * b for a, b in zip(ours, xla, strict=True)), (ours, xla)


def test_what_is_masked_changes_nothing_and_a_query_that_sees_nothing_stays_finite():
    case = Case(rows=1)
    inputs, mask, d_out = operands(case)
    mask[..., -9:] = False
    mask[:, :, 3] = False
    d_out[:, 3] = 0  # such a query's result is used by nobody
    query, key, value, bias = inputs
    before = kernel(case, mask, d_out, inputs)
    poison = np.where(np.arange(case.keys) >= case.keys - 9, 1e4, 0).astype(np.float32)[:, None, None]
    after = kernel(case, mask, d_out, (query, key + poison, value - poison, bias))
    seen = np.arange(case.queries) != 3
    for old, new in zip(before, after, strict=True):
        assert np.isfinite(new).all()
        at = (slice(None), seen) if old.shape == query.shape else slice(None)
        np.testing.assert_allclose(new[at], old[at], rtol=0, atol=1e-6)
    assert not before[2][:, -9:].any(), "keys that nobody sees have a gradient"


def test_several_devices_give_what_one_gives():
    case = Case(rows=4, heads=4, size=32)
    inputs, mask, d_out = operands(case)
    mesh = sharding.make_mesh(2, 2, jax.devices()[:4])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(inputs, (rows, rows, rows, sharding.replicated(mesh)))
    alone, together = kernel(case, mask, d_out, inputs), kernel(case, mask, d_out, placed, mesh=mesh)
    for one, several in zip(alone, together, strict=True):
        np.testing.assert_allclose(several, one, rtol=0, atol=1e-5 * max(1, np.abs(one).max()))


def test_prompts_that_train_together():
    case = Case(rows=1, keys=24, size=32)
    (query, key, value, bias), mask, _ = operands(case)
    keys = np.stack([key, -key, 2 * key])
    attend = lambda key: attention_pallas.attend(query, key, value, mask=mask, bias=bias, interpret=True)  # noqa: E731
    loss = jax.value_and_grad(lambda key: jnp.square(attend(key)).sum())
    together = jax.jit(jax.vmap(loss))(keys)
    for at, one in enumerate(keys):
        for found, alone in zip(together, jax.jit(loss)(one), strict=True):
            np.testing.assert_allclose(found[at], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [Case(mask="keys"), Case(mask="shared", bias_rows=0, scale=0.3)], ids=str)
def test_what_cudnn_is_asked_for(monkeypatch, case):
    """The arguments, by JAX's own reading of them; whether cuDNN is right is a matter of benchmarks/attention.py."""
    whole = jax.nn.dot_product_attention

    def by_xla(*arguments, implementation, **options):
        assert implementation == "cudnn"
        return whole(*arguments, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    inputs, mask, d_out = operands(case)

    def attend(query, key, value, *, mask, bias, scale):
        options = {"mask": mask, "bias": bias, "scale": jnp.float32(scale), "mesh": None, "name": "attention"}
        return fused_attention.attend("cudnn", query, key, value, **options)

    found = passes(attend, case, mask, d_out, inputs)
    for ours, theirs in zip(found, torch_passes(case, mask, d_out, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


T5_CONFIG = T5Config(
    vocab_size=60, d_model=16, d_kv=16, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2
)  # fmt: skip
GPT2_CONFIG = dataclasses.replace(
    tiny_families.GPT2_CONFIG, vocab_size=60, d_model=32, num_layers=1, attention_dropout_rate=0.0
)


@pytest.mark.parametrize("module", [T5(T5_CONFIG), GPT2(GPT2_CONFIG)], ids=lambda module: type(module).__name__)
def test_models_are_the_same_by_the_kernel(monkeypatch, module):
    cfg, rng = module.config, np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), abstract_params(module))
    lm = LanguageModel(module, params, None, cfg, "tiny", "t5")
    contexts = [[id % 50 for id in row] for row in tiny_families.CONTEXTS]
    batch = tiny_families.batch_for(lm, contexts, [[id % 50 for id in row] for row in tiny_families.TARGETS])
    stacks = ("decoder",) if cfg.is_causal else ("encoder", "decoder", "cross")
    part = lambda: draw(1, tiny_families.PREFIX, cfg.num_heads, cfg.d_kv)  # noqa: E731
    injection = Injection(kv={stack: (part(), part()) for stack in stacks})

    @functools.partial(jax.jit, static_argnums=0)
    def run(module, injection):
        def loss(injection):
            options = {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}
            logits = module.apply({"params": params}, batch, injection, **options)
            return (jax.nn.log_softmax(logits) * batch.target_weights[..., None]).sum(), logits

        return jax.value_and_grad(loss, has_aux=True)(injection)

    calls, whole = [], attention_pallas.attend
    monkeypatch.setattr(attention_pallas, "attend", lambda *args, **options: calls.append(1) or whole(*args, **options))
    (_, logits), gradient = run(module, injection)
    assert not calls
    (_, by_kernel), gradient_by_kernel = run(module.clone(attention_kernel="pallas"), injection)
    assert len(calls) == (1 if cfg.is_causal else 3)  # in one layer of each stack
    real = np.asarray(batch.target_weights) > 0
    np.testing.assert_allclose(by_kernel[real], logits[real], rtol=0, atol=1e-5 * float(np.abs(logits).max()))
    for found, expected in zip(jax.tree.leaves(gradient_by_kernel), jax.tree.leaves(gradient), strict=True):
        assert relative_difference(found, expected) <= 1e-5


TPU = fused_attention.Call(612, 612, 32, 64, jnp.bfloat16, True, False, "tpu", "TPU v5 lite")
GPU = dataclasses.replace(TPU, platform="gpu", kind="NVIDIA H200")
CPU = dataclasses.replace(TPU, platform="cpu", kind="cpu", dtype=jnp.float32)


@pytest.mark.parametrize(
    ("asked", "call", "changes", "chosen"),
    [
        ("auto", CPU, {}, "xla"), ("auto", GPU, {}, "xla"), ("auto", TPU, {}, "xla"), ("xla", TPU, {}, "xla"),
        ("pallas", TPU, {}, "pallas"), ("pallas", CPU, {}, "pallas"), ("pallas", TPU, {"size": 20}, "xla"),
        ("pallas", TPU, {"queries": 1}, "xla"), ("pallas", TPU, {"drops_weights": True}, "xla"),
        ("pallas", TPU, {"keys": 8192, "queries": 8192}, "xla"),  # all keys at once are too many
        ("pallas", TPU, {"kind": "TPU v4"}, "xla"), ("pallas", TPU, {"kind": "TPU v4", "has_bias": False}, "pallas"),
        ("cudnn", GPU, {}, "cudnn"), ("cudnn", GPU, {"keys": 613}, "xla"), ("cudnn", GPU, {"size": 60}, "xla"),
        ("cudnn", GPU, {"queries": 1}, "xla"), ("cudnn", GPU, {"drops_weights": True}, "xla"),
    ],
)  # fmt: skip
def test_the_choice(asked, call, changes, chosen):
    assert fused_attention.choose(asked, dataclasses.replace(call, **changes)) == chosen


@pytest.mark.parametrize(
    ("asked", "call", "message"),
    [
        ("palas", CPU, r"'palas'.*did you mean 'pallas'"),
        ("cudnn", CPU, "for GPUs and two-byte numbers; here are cpu devices and float32"),
        ("cudnn", dataclasses.replace(GPU, dtype=jnp.float32), "set model.dtype to bfloat16"),
        ("pallas", GPU, "here are NVIDIA H200 devices; set model.attention to xla"),
        ("pallas", dataclasses.replace(TPU, kind="TPU v3"), "here are TPU v3 devices"),
    ],
)
def test_a_kernel_that_can_never_serve_is_refused(asked, call, message):
    with pytest.raises(ValueError, match=message):
        fused_attention.choose(asked, call)


COMPILED = """
from jaxprompt.planning import environment, topologies
environment.prepare()
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxprompt.models.attention_pallas import attend

for name, heads, size, queries in (("v5e:1x1", 2, 64, 300), ("v6e:1x1", 3, 32, 80), ("v5p:2x2x1", 1, 128, 228)):
    where = SingleDeviceSharding(topologies.describe_devices(topologies.find_slice(name))[0])
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    rows = array(2, queries, heads, size)
    bias, mask = array(1, heads, queries, queries), array(2, 1, queries, queries, dtype=bool)
    loss = lambda query, key, value, bias, mask: attend(query, key, value, mask=mask, bias=bias).astype(float).sum()
    frozen, trained = (jax.jit(jax.grad(loss, argnums=of)) for of in ((0, 1, 2), (0, 1, 2, 3)))
    for step in (frozen, trained):
        compiled = step.lower(rows, rows, rows, bias, mask).compile()
        print(name, compiled.as_text().count('custom_call_target="tpu_custom_call"'))
"""


@NEEDS_COMPILER
def test_the_tpu_compiler_takes_it_and_drops_the_gradient_of_a_frozen_bias():
    done = nano.python("-c", COMPILED)
    assert done.returncode == 0, done.stderr
    counts = [line.split() for line in done.stdout.splitlines()]
    assert counts == [[name, count] for name in ("v5e:1x1", "v6e:1x1", "v5p:2x2x1") for count in ("2", "3")]


def test_what_a_kernel_takes_of_a_core_is_told():
    # Of the largest kernel at T5 XXL's shape, of which the compiler says 10.8 MB: the estimate may not be below.
    assert 10.8e6 < Shape(4, 616, 616, 32, 64).core_bytes(2, has_bias=True) < 36e6
