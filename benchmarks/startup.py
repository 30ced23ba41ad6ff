"""From the start of a process to its first finished training step, and how long 24 layers compile.

    python benchmarks/startup.py --output=startup.json [--quick] [--cases=t5_small,t5_24_layers]

- `t5_small`, `gpt2_small`: a process imports the library, makes a model of random weights, compiles where it does, and
  steps once. **cold** is ours with an empty compilation cache, **ours** with one that the same start has filled, as the
  commands keep it between runs. The ratio is how many times as long PEFT takes as ours with the cache.
- `quickstart`: the same of `launch/train.py --config=configs/quickstart.py`, data and all, until metrics are written.
- `t5_24_layers`, `gpt2_24_layers`: tracing, lowering and compiling the step of T5 large's and GPT-2 medium's shapes,
  without a cache; the model is never made.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import report
from paired.first_step import DONE
from paired.shapes import Case
from paired.turns import Apart, measure

HERE = Path(__file__).parent
STEPS = {
    "t5_small": Case("t5_small", prompt=100, input=128),
    "gpt2_small": Case("gpt2_small", prompt=100, input=64),
    "t5_nano": Case("t5_nano", prompt=4, batch=2, input=6, target=3),
}
COMPILED = {
    "t5_24_layers": Case("t5_large", prompt=100, input=128),
    "gpt2_24_layers": Case("gpt2_medium", prompt=100, input=64),
    "gpt2_nano_compiled": Case("gpt2_nano", prompt=4, batch=2, input=6, target=3),
}
QUICKSTART = "quickstart"
CASES = {**STEPS, QUICKSTART: Case("t5_nano"), **COMPILED}
DEFAULT = [name for name in CASES if "nano" not in name]


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    chosen = report.options(__doc__, CASES).parse_args(arguments)
    report.prepare(chosen)
    found: dict[str, Any] = {}
    report.show("case", "cold", "ours", "peer", "ratio")
    for name, case in report.select(chosen, CASES, DEFAULT).items():
        rounds = chosen.rounds or (1 if chosen.quick else 3)
        if name in COMPILED:
            from paired import ours

            # Every round compiles anew, so that none need warm up.
            plan = report.plan(chosen, rounds=rounds, times=1, warm_up=False)
            found[name] = report.compare(measure({"ours": ours.compilation}, case, plan, start=start), case)
        elif name == QUICKSTART:
            found[name] = starts(rounds, {"ours": first_metrics}, case)
        else:
            sides = {side: functools.partial(first_step, side, case) for side in chosen.sides}
            found[name] = starts(rounds, sides, case)
        result = found[name]
        times = (report.seconds(result.get(key)) for key in ("cold", "ours", "peer"))
        report.show(name, *times, report.times(result["ratio"]))
    report.write(chosen.output, found)
    return 0


def starts(rounds: int, sides: Mapping[str, Callable[[Path], float]], case: Case) -> dict[str, Any]:
    """Starts of ours with an empty cache and with a filled one, and of the peer, in turn."""
    seconds: dict[str, list[float]] = {"cold": [], **{side: [] for side in sides}}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            seconds["cold"].append(sides["ours"](Path(cache)))
            for side, measured in sides.items():
                seconds[side].append(measured(Path(cache)))
    result = {name: statistics.median(each) for name, each in seconds.items()}
    by_round = [theirs / own for theirs, own in zip(seconds.get("peer", []), seconds["ours"], strict=False)]
    ratio = statistics.median(by_round) if by_round else None
    return {"peer": None, **result, "ratio": ratio, "unit": "s", "shapes": case.shapes, "rounds": seconds}


def first_step(side: str, case: Case, cache: Path) -> float:
    """Seconds until a process of that side has made its first step.

    Raises:
        RuntimeError: it ended before.
    """
    command = [sys.executable, "-m", "paired.first_step", side, json.dumps(dataclasses.asdict(case))]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=HERE, env=_environment(cache), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    if not any(line.strip() == DONE for line in lines):
        raise RuntimeError(f"{side}'s process ended with exit code {process.wait()} before its first step")
    taken = time.perf_counter() - began
    process.communicate()
    return taken


def first_metrics(cache: Path) -> float:
    """Seconds until the quickstart has written the metrics of its first step.

    Raises:
        RuntimeError: it ended before.
    """
    with tempfile.TemporaryDirectory() as workdir:
        flags = ["--noprogress", "--config.train.log_every=1", "--config.eval.baselines=False"]
        command = [sys.executable, "launch/train.py", "--config=configs/quickstart.py", f"--workdir={workdir}", *flags]
        metrics = Path(workdir) / "metrics.jsonl"
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=_environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                said = process.communicate()[1].decode()
                raise RuntimeError(f"the quickstart ended with exit code {process.returncode} at once: {said}")
            time.sleep(0.02)
        taken = time.perf_counter() - began
        process.terminate()  # it saves, and says with exit code 75 that it is to be run again
        process.communicate()
        return taken


def _environment(cache: Path) -> dict[str, str]:
    """With a place for the compilation cache that nobody else uses."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION_CACHE")}
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept.pop("JAX_ENABLE_COMPILATION_CACHE", None)
    return kept | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    sys.exit(main())
