"""Tables of names: where a checkpoint keeps each of our parameters, and how its axes lie there.

A table is an ordered list of rules (`jaxprompt.trees`) from our paths to `Stored`; the same table loads and saves.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxprompt import trees
from jaxprompt.models.weight_source import Index, TensorSource

Shape = tuple[int, ...]

_XLA_ALIGNMENT = 64  # bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the axes of a stored tensor relate to those of one layer's parameter.

    Written like "(H D) E -> E H D": the stored matrix has E columns, its rows are the H heads of D rows each, and ours
    is [E, H, D]. An axis "1/3" is of size 3, and ours is what lies at 1: the second of three fused matrices.
    """

    pattern: str

    @functools.cached_property
    def _axes(self) -> tuple[list[list[str]], list[str], list[str]]:
        left, right = self.pattern.split("->")
        groups = [token.strip("()").split() for token in re.findall(r"\([^)]*\)|\S+", left)]
        parts = [axis for group in groups for axis in group if "/" in axis]
        return groups, parts, right.split()

    def _sizes(self, shape: Shape) -> dict[str, int]:
        _, parts, ours = self._axes
        return dict(zip(ours, shape, strict=True)) | {part: int(part.split("/")[1]) for part in parts}

    def stored_shape(self, shape: Shape) -> Shape:
        """The shape of the stored tensor, given that of our parameter."""
        sizes = self._sizes(shape)
        return tuple(int(np.prod([sizes[axis] for axis in group])) for group in self._axes[0])

    def view(self, stored: np.ndarray, shape: Shape) -> np.ndarray:
        """A view of a whole stored tensor as our parameter of the given shape; writable where `stored` is."""
        return self._view(stored, self._sizes(shape))

    def read(self, source: TensorSource, name: str, shape: Shape, index: Index) -> np.ndarray:
        """A slice of our parameter, read from no more of the stored tensor than the rows and columns that hold it."""
        groups, parts, ours = self._axes
        sizes = self._sizes(shape)
        wanted = {axis: (s.start, s.stop) for axis, s in zip(ours, index, strict=True)}
        wanted |= {part: (int(part.split("/")[0]), int(part.split("/")[0]) + 1) for part in parts}
        cover = []
        for first, *rest in groups:
            inner = int(np.prod([sizes[axis] for axis in rest]))
            cover.append(slice(wanted[first][0] * inner, wanted[first][1] * inner))
        outer = [group[0] for group in groups]
        sizes |= {axis: wanted[axis][1] - wanted[axis][0] for axis in outer}
        # The cover starts where an outer axis is wanted to start, but holds the whole of every inner one.
        within = {axis: slice(0, sizes[axis]) if axis in outer else slice(*wanted[axis]) for axis in sizes}
        view = self._view(source.read(name, tuple(cover)), sizes, {part: within[part].start for part in parts})
        return view[tuple(within[axis] for axis in ours)]

    def _view(self, stored: np.ndarray, sizes: Mapping[str, int], at: Mapping[str, int] | None = None) -> np.ndarray:
        groups, parts, ours = self._axes
        axes = [axis for group in groups for axis in group]
        split = stored.reshape([sizes[axis] for axis in axes])  # splits axes only, so this is a view
        at = at if at is not None else {part: int(part.split("/")[0]) for part in parts}
        return split.transpose([axes.index(axis) for axis in (*parts, *ours)])[tuple(at[part] for part in parts)]


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a parameter is stored.

    Attributes:
        name: of the tensor; with "{layer}" in it, one tensor a layer, and our parameter has a leading layer axis.
            In a rule it may refer to the groups of the rule's regex, as in `re.sub`.
        layout: of one layer.
    """

    name: str
    layout: Layout

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor a layer."""
        return "{layer}" in self.name

    def tensors(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the tensors that hold our parameter of the given shape."""
        if not self.stacked:
            return {self.name: self.layout.stored_shape(shape)}
        return {self.name.format(layer=n): self.layout.stored_shape(shape[1:]) for n in range(shape[0])}

    def read(self, source: TensorSource, shape: Shape, dtype: np.dtype, index: Index) -> np.ndarray:
        """A slice of our parameter in a fresh array, filled layer by layer and cast on the way."""
        bounds = tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, shape, strict=True))
        out = _aligned_empty([s.stop - s.start for s in bounds], dtype)
        if not self.stacked:
            out[...] = self.layout.read(source, self.name, shape, bounds)
        else:
            for row, layer in enumerate(range(bounds[0].start, bounds[0].stop)):
                out[row] = self.layout.read(source, self.name.format(layer=layer), shape[1:], bounds[1:])
        return out


@dataclasses.dataclass(frozen=True)
class NameTable:
    """Where a kind of checkpoint keeps a family's parameters.

    Attributes:
        rules: (regex over our paths, tensor name, layout pattern); see `Stored`.
        aliases: (regex over stored names, stored name): second copies, that must equal the first. A checkpoint may
            hold any one of the copies, or all.
        ignored: regexes of stored names that no model reads.
    """

    rules: Sequence[tuple[str, str, str]]
    aliases: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()

    def resolve(self, paths: Iterable[str]) -> dict[str, Stored]:
        """Where each of our parameters is stored.

        Raises:
            trees.RuleError: no rule covers a path.
        """
        rules = [(pattern, (pattern, name, layout)) for pattern, name, layout in self.rules]
        found = trees.match_rules(rules, paths, unused_ok=True)
        return {
            path: Stored(re.sub(pattern, name, path), Layout(layout)) for path, (pattern, name, layout) in found.items()
        }

    def alias_of(self, name: str) -> str | None:
        """The tensor that a stored name is a second copy of."""
        return next((target for pattern, target in self.aliases if re.fullmatch(pattern, name)), None)

    def is_ignored(self, name: str) -> bool:
        """Whether no model reads this stored tensor."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def _aligned_empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Like `np.empty`, at an address that XLA's CPU backend takes over as it is rather than copies."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _XLA_ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _XLA_ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
