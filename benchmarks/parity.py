"""How far our T5s are from transformers' PyTorch ones, in logits and in the gradient of the prompt.

    python benchmarks/parity.py [--output=parity.json]

One small model of every T5 family (`tests/t5_parity.py`), same weights, same prompt, fp32. Live against PyTorch where
it is installed, else against its stored results (`tests/golden/t5.npz`). The exit code is 1 if a bound is broken. A
minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import t5_files  # noqa: E402
import t5_parity  # noqa: E402

LOGITS, GRADIENT = 1e-4, 1e-5
"""Bounds: largest difference of logits scaled to unit size, relative difference of gradients in norm."""

COLUMNS = "{:<16} {:>18} {:>22}   {}"


def compare(live: bool) -> Iterator[dict[str, Any]]:
    """The differences of every variant, one at a time."""
    with np.load(TESTS / "golden" / "t5.npz") as stored:
        golden = dict(stored)
    for name, config in t5_parity.VARIANTS.items():
        data = t5_parity.case(config)
        with tempfile.TemporaryDirectory() as directory:
            path = t5_files.write(Path(directory), config, t5_parity.weights(config))
            ours = t5_parity.our_pass(path, data)
            theirs = (
                t5_parity.torch_pass(path, data)
                if live
                else {key: golden[f"{name}/{key}"] for key in ("logits", "gradient")}
            )
        logits, gradient, _ = t5_parity.differences(ours, theirs)
        # Negated, so that NaN, which is neither below a bound nor above it, breaks it.
        broken = not (logits <= LOGITS and gradient <= GRADIENT)
        yield {"variant": name, "logits": logits, "gradient": gradient, "broken": broken}


def versions(live: bool) -> dict[str, str]:
    """Of the libraries that take part."""
    names = ["jax", "flax", *(["torch", "transformers"] if live else [])]
    return {name: importlib.metadata.version(name) for name in names}


def main() -> int:
    """Prints the table, writes the file, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    output = parser.parse_args().output
    live = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if live:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    # Accelerators would round the inputs of fp32 products.
    jax.config.update("jax_default_matmul_precision", "highest")

    reference = "PyTorch, live" if live else "PyTorch's stored results (torch is not installed)"
    used = versions(live)
    print(f"against {reference}; {', '.join(f'{name} {version}' for name, version in used.items())}")
    print(COLUMNS.format("variant", "logits, max |Δ|", "prompt gradient, rel.", f"bounds {LOGITS:.0e}, {GRADIENT:.0e}"))
    rows = []
    for row in compare(live):
        rows.append(row)
        verdict = "BROKEN" if row["broken"] else "ok"
        print(COLUMNS.format(row["variant"], f"{row['logits']:.2e}", f"{row['gradient']:.2e}", verdict), flush=True)
    if output:
        bounds = {"logits": LOGITS, "gradient": GRADIENT}
        table = {"reference": reference, "bounds": bounds, "versions": used, "rows": rows}
        output.write_text(json.dumps(table, indent=2) + "\n")
    return int(any(row["broken"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
