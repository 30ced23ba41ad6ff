"""What the TPU compiler must find in the environment of a machine without a TPU."""

from __future__ import annotations

import os

import jax

_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # of this machine, which has none
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
# The compiler's threads have small stacks, on which some of our fused products overflow.
_STACKS = "--fibers_default_thread_stack_size=1048576"


def prepare() -> None:
    """Lets programs be compiled here for a TPU, and run on the CPU alone; to be called before the first computation.

    Neither JAX nor the compiler looks for a TPU then, and the compiler writes no pages of log lines.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ |= _SETTINGS
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    if _STACKS not in given:
        os.environ["LIBTPU_INIT_ARGS"] = f"{given} {_STACKS}".strip()
