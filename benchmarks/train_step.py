"""Time, throughput and memory of one training step, beside PEFT's PromptTuning on the same shape.

    python benchmarks/train_step.py [--quick] --output=train_step.json

Each side trains a prompt on a randomly initialised model of the shape named, in a process of its own, dropout on as
both train by default, Adafactor without momentum, fp32. Sides take turns, round by round, so that a busy machine slows
both; reported are the medians over all timed steps, and their ratio, ours / peer. Without PEFT there is only our side.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

SMALL = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "dropout_rate": 0.1,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
CASES = {
    "t5_small_p100": {"model": SMALL, "prompt": 100, "batch": 8, "input": 128, "target": 8},
    "t5_small_p20": {"model": SMALL, "prompt": 20, "batch": 8, "input": 128, "target": 8},
}


def ours(case: dict[str, Any]) -> tuple[Callable[[], float], dict[str, Any]]:
    """One step of ours as a function that returns its loss, and what the compiler says of it."""
    import jax
    import numpy as np

    import jaxprompt as jp
    from jaxprompt.models.initialize import random_model
    from jaxprompt.models.t5 import T5
    from jaxprompt.models.t5_config import T5Config
    from jaxprompt.training.loss import LossConfig
    from jaxprompt.training.optim import make_optimizer, preset, split_trainable
    from jaxprompt.training.step import init_state, make_train_step

    lm = random_model("t5", T5(T5Config.from_hf(case["model"])), jax.random.key(0))
    model = jp.patch(lm, jp.PromptTuning(case["prompt"], init="random"))
    rng = np.random.default_rng(0)
    rows, vocab_size = case["batch"], lm.config.vocab_size
    slots = np.broadcast_to(vocab_size + np.arange(case["prompt"]), (rows, case["prompt"]))
    inputs = np.concatenate([slots, rng.integers(3, 32000, (rows, case["input"]))], axis=1).astype(np.int32)
    targets = rng.integers(3, 32000, (rows, case["target"])).astype(np.int32)
    weights = np.ones(targets.shape, np.float32)
    batch = jp.Batch(inputs, np.ones_like(inputs), targets, np.ones_like(targets), weights, np.arange(rows))

    trainable, frozen = split_trainable(model.init_params(jax.random.key(1)), model.method.rules)
    optimizer = make_optimizer(preset("lester2021"), model.method.rules, trainable)
    state = init_state(trainable, optimizer, jax.random.key(2))
    train_step = make_train_step(model, optimizer, LossConfig())
    start = time.perf_counter()
    compiled = train_step.lower(state, frozen, batch).compile()
    facts = {
        "compile_s": time.perf_counter() - start,
        "temporaries_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "jax": jax.__version__,
    }

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, frozen, batch)
        return float(metrics["loss"])

    return step, facts


def peer(case: dict[str, Any]) -> tuple[Callable[[], float], dict[str, Any]]:
    """One step of PEFT's, likewise."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    base = transformers.T5ForConditionalGeneration(transformers.T5Config(**case["model"]))
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=case["prompt"], num_transformer_submodules=1
    )
    model = peft.get_peft_model(base, config).train()
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = transformers.Adafactor(trainable, lr=0.3, scale_parameter=False, relative_step=False)
    inputs = torch.randint(3, 32000, (case["batch"], case["input"]))
    targets = torch.randint(3, 32000, (case["batch"], case["target"]))
    mask = torch.ones_like(inputs)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(input_ids=inputs, attention_mask=mask, labels=targets).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__}


def serve(side: str, case: dict[str, Any], pipe: Any) -> None:
    """A side's process: makes its step, then times as many as it is asked for, until it is asked for none."""
    make = {"ours": ours, "peer": peer}[side]
    step, facts = make(case)
    pipe.send(facts)
    while steps := pipe.recv():
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        pipe.send(times)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(case: dict[str, Any], sides: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """Median step time, tokens a second and peak memory of each side."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, result = {}, {}, {}
    for side in sides:
        pipes[side], far = context.Pipe()
        processes[side] = context.Process(target=serve, args=(side, case, far))
        processes[side].start()
        result[side] = {"facts": pipes[side].recv()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for round_number in range(rounds + 1):
        for side in sides:
            pipes[side].send(steps)
            timed = pipes[side].recv()
            if round_number:  # the first round warms up
                times[side] += timed
    tokens = case["batch"] * (case["prompt"] + case["input"] + case["target"])
    for side in sides:
        pipes[side].send(0)
        median = statistics.median(times[side])
        result[side] |= {
            "step_s": median,
            "tokens_per_s": tokens / median,
            "peak_memory_mb": pipes[side].recv(),
            "steps_timed": len(times[side]),
        }
        processes[side].join()
    if len(sides) == 2:
        result["ratio"] = result["ours"]["step_s"] / result["peer"]["step_s"]
        result["memory_ratio"] = result["ours"]["peak_memory_mb"] / result["peer"]["peak_memory_mb"]
    return result


def main() -> None:
    """Measures the cases, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first case, few steps")
    parser.add_argument("--output", help="a JSON file")
    args = parser.parse_args()
    sides = ["ours"] + (["peer"] if importlib.util.find_spec("peft") else [])
    cases = dict(list(CASES.items())[: 1 if args.quick else None])
    rounds, steps = (2, 2) if args.quick else (6, 4)
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        "cases": {},
    }
    print(f"{'case':<16}{'side':<7}{'step':>10}{'tokens/s':>11}{'peak MB':>10}{'ratio':>8}")
    for name, case in cases.items():
        result = measure(case, sides, rounds, steps)
        report["cases"][name] = {"shapes": case, **result}
        for side in sides:
            row = result[side]
            ratio = f"{result['ratio']:.2f}" if side == "ours" and "ratio" in result else ""
            print(
                f"{name:<16}{side:<7}{row['step_s'] * 1e3:>7.0f} ms{row['tokens_per_s']:>11,.0f}"
                f"{row['peak_memory_mb']:>10,.0f}{ratio:>8}"
            )
    if args.output:
        with open(args.output, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
