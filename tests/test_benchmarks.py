"""The side-by-side benchmarks: how sides take turns, what is counted, and that every script runs. No time is judged."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import nano
import pytest
from nano import quick_compilation  # noqa: F401

sys.path.insert(0, str(nano.ROOT / "benchmarks"))

import epoch
import generate
import seeds
import serving
import startup
import train_step
from paired import memory, ours, report, texts
from paired.flops import matrix_flops
from paired.shapes import Case
from paired.turns import Apart, Here, Measured, Plan, SideFailed, Work, measure


def parts_of(log):
    """Sides that note who worked how often, in order."""
    return {name: lambda _, name=name: Work(lambda times: log.append((name, times))) for name in ("ours", "peer")}


def test_sides_take_turns_and_the_first_round_does_not_count():
    log = []
    gauges = {"gauge": Here(lambda _: Work(lambda times: log.append(("gauge", times))), None)}
    found = measure(parts_of(log), None, Plan(rounds=2, times=3), gauges=gauges, start=Here)
    assert log == [(name, times) for name in ("ours", "peer", "gauge") for times in (1, 3)] * 3
    assert {name: len(one.seconds) for name, one in found.items()} == {"gauge": 2, "ours": 2, "peer": 2}
    assert set(found["ours"].memory) == {"step", "made", "process"}


def test_on_an_accelerator_one_side_comes_after_the_other():
    log = []
    measure(parts_of(log), None, Plan(rounds=1, warm_up=False, together=False), start=Here)
    assert log == [("ours", 1), ("peer", 1)]
    log.clear()
    measure(parts_of(log), None, Plan(rounds=2, together=False), start=Here)
    assert log == [("ours", 1)] * 3 + [("peer", 1)] * 3


def test_a_side_that_an_accelerator_is_too_small_for_is_left_out():
    def too_large(_):
        raise SideFailed("RESOURCE_EXHAUSTED: out of memory")

    sides = {"ours": lambda _: Work(range), "peer": too_large}
    found = measure(sides, None, Plan(1, together=False), start=Here)
    result = report.compare(found, Case("t5_nano"))
    assert result["ours"] > 0
    assert (result["peer"], result["ratio"]) == (None, None)
    assert "RESOURCE_EXHAUSTED" in found["peer"].facts["error"]
    with pytest.raises(SideFailed):
        measure(sides, None, Plan(1), start=Here)


def test_a_process_of_its_own_works_fails_and_dies_audibly():
    working, broken, dying = (Apart(Work, run) for run in (range, len, os._exit))  # run(times), as a side would
    assert working.run(2) > 0
    assert working.stop()["process"] > 1e6
    with pytest.raises(SideFailed, match="TypeError: object of type 'int' has no len"):
        broken.run(2)
    with pytest.raises(SideFailed, match="exit code 9"):
        dying.run(9)


def test_the_ratio_is_how_many_times_as_long_the_peer_takes():
    found = {
        "ours": Measured({}, [1.0, 2.0, 4.0], {"step": 3, "made": 2}),
        "peer": Measured({}, [3.0, 4.0, 16.0], {"step": 6, "made": 1}),
    }
    result = report.compare(found, Case("t5_nano"))
    assert (result["ours"], result["peer"], result["ratio"]) == (2.0, 4.0, 3.0)  # of 3, 2 and 4
    assert result["ratio_quartiles"] == [2.5, 3.5]
    assert (result["memory_of_peer"], result["added_memory_of_peer"]) == (0.5, 0.2)
    assert report.compare(found, Case("t5_nano"), scale=5)["ratio"] == 15.0
    whole = report.compare(found, Case("t5_nano"), combine=sum)
    assert (whole["ours"], whole["peer"], whole["ratio"]) == (7.0, 23.0, 23 / 7)
    alone = report.compare({"ours": found["ours"]}, Case("t5_nano"))
    assert (alone["peer"], alone["ratio"]) == (None, None)


def test_products_are_counted_with_their_loops_and_branches():
    def function(x, w):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    traced = jax.jit(jax.grad(lambda x, w: function(x, w).sum())).trace(jnp.ones((3, 4)), jnp.ones((4, 4)))
    product = 2 * 3 * 4 * 4
    forward = matrix_flops(jax.make_jaxpr(function)(jnp.ones((3, 4)), jnp.ones((4, 4))))
    assert forward == (5 + 2) * product
    # The last result is summed, so that of its branch only the backward products are needed.
    assert matrix_flops(traced.jaxpr) in (2 * forward, 2 * forward - 2 * product)


@pytest.mark.skipif(not memory.forget_peak(), reason="this system cannot forget a peak")
def test_a_peak_can_be_forgotten():
    block = bytearray(64_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = memory.peak()
    del block
    memory.forget_peak()
    assert memory.peak() < high - 32_000_000
    assert memory.peak() >= memory.resident() * 0.9


def test_texts_have_the_lengths_of_the_table(tmp_path):
    case = epoch.CASES["rte_nano"].resolved(examples=128)
    made = texts.with_rows(texts.of_table(case, "rte", tmp_path))
    found, table = texts.table_of(made), texts.LENGTHS["rte"]
    assert found.count == 128
    assert max(found.targets) <= 6
    for drawn, recorded in zip(found.inputs[1:-1], table.inputs[1:-1], strict=True):
        assert drawn == pytest.approx(recorded, rel=0.1)


def run(script, cases, tmp_path, *flags):
    """What a script reports of our side, of one round."""
    output = tmp_path / "report.json"
    arguments = [f"--cases={cases}", "--sides=ours", "--device=cpu", "--rounds=1", "--times=1", f"--output={output}"]
    assert script.main([*arguments, *flags], start=Here) == 0
    found = json.loads(output.read_text())
    assert found["versions"]["jax"] == jax.__version__
    for result in found["cases"].values():
        assert result["ours"] > 0
        assert (result["peer"], result["ratio"]) == (None, None)
    return found["cases"]


def test_train_step(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "matrix_products", lambda _: Work(range, {"flops": 1e9}))
    found = run(train_step, "gpt2_nano", tmp_path)["gpt2_nano"]
    facts = found["facts"]["ours"]
    # Attention's products, which are of two activations, go backward twice; all others once.
    assert facts["matrix_flops"] == pytest.approx(facts["needed_flops"], rel=0.35)
    assert facts["compiler_bytes"]["arguments"] > 4 * facts["parameters"]
    assert found["share_of_peak"] > 0


def test_seeds(tmp_path):
    assert run(seeds, "gpt2_nano_x2", tmp_path)["gpt2_nano_x2"]["shapes"]["prompts"] == 2


def test_generate(tmp_path):
    found = run(generate, "gpt2_nano_beam2", tmp_path)["gpt2_nano_beam2"]
    assert found["facts"]["ours"]["rows"] == [2, 6]  # the prompt is read ahead


def test_serving(tmp_path):
    found = run(serving, "mixed3_gpt2_nano", tmp_path)["mixed3_gpt2_nano"]
    assert found["of_single"] > 0
    assert found["facts"]["ours"]["rows"] == [4, 6]


def test_epoch(tmp_path):
    found = run(epoch, "rte_nano", tmp_path, "--examples=8")["rte_nano"]
    facts = found["facts"]["ours"]
    assert facts["steps"] == sum(facts["shapes"].values()) == 2
    assert 0 <= facts["padding_share"] < 1


def test_compilation_needs_no_model(tmp_path):
    found = run(startup, "gpt2_nano_compiled", tmp_path)["gpt2_nano_compiled"]
    assert found["facts"]["ours"]["compile_s"] > 0


def test_what_is_unknown_is_named():
    with pytest.raises(ValueError, match=r"no cases \['t5_tiny'\]; expected some of"):
        train_step.main(["--cases=t5_tiny", "--sides=ours", "--device=cpu"])
    with pytest.raises(ValueError, match="no model 't6'"):
        Case("t6").resolved()
