"""What programs are made for: by default what runs them, and another where they are only compiled for it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

_PLANNED: contextvars.ContextVar[str] = contextvars.ContextVar("planned", default="")


def platform(mesh: Mesh | None) -> str:
    """`cpu`, `gpu` or `tpu`: of the mesh's devices, or of the one device that there is without a mesh."""
    return mesh.devices.flat[0].platform if mesh else _PLANNED.get() or jax.default_backend()


@contextlib.contextmanager
def planned_for(name: str) -> Iterator[None]:
    """Within it, programs of one device are traced as those of that platform, which need not be there."""
    token = _PLANNED.set(name)
    try:
        yield
    finally:
        _PLANNED.reset(token)
