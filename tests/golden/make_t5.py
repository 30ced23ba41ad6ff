"""Writes t5.npz: what transformers' PyTorch T5 computes for the variants of tests/t5_parity.py.

    python tests/golden/make_t5.py

The weights are not stored: both sides draw them from a seed (`t5_parity.weights`).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import t5_files  # noqa: E402
import t5_parity  # noqa: E402


def main() -> None:
    """Computes and writes all variants."""
    arrays = {}
    for name, config in t5_parity.VARIANTS.items():
        with tempfile.TemporaryDirectory() as directory:
            t5_files.write(Path(directory), config, t5_parity.weights(config))
            result = t5_parity.torch_pass(Path(directory), t5_parity.case(config))
        arrays |= {f"{name}/{key}": value for key, value in result.items()}
    np.savez_compressed(HERE / "t5.npz", **arrays)
    print(f"{len(arrays)} arrays in {HERE / 't5.npz'}")


if __name__ == "__main__":
    main()
