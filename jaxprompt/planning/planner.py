"""Finds out whether an experiment fits a slice, on which mesh it runs best, and what would have to change."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxprompt.experiment import Experiment, MeshConfig
from jaxprompt.planning.collectives import Interconnect
from jaxprompt.planning.flops import Products, train_products
from jaxprompt.planning.program_report import ProgramReport, compile_program, device_bytes
from jaxprompt.planning.step_program import Programs, build_programs
from jaxprompt.planning.topologies import Slice, describe_devices

_LARGER = 3  # how many larger slices are looked at, each of about twice the chips


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One setting on one slice.

    Attributes:
        slice: where.
        experiment: with `mesh.data` and `mesh.model` as they come to on it.
        changes: {config key: value} in which it differs from what was asked for, the mesh left out.
        step: what compiling the training step told; where the arguments alone do not fit it is not compiled.
        shares: {what: bytes of one device} of the step's arguments.
        products: of the training step.
        published: the same of the architecture as it was published.
        programs: the programs, to compile others of them.
    """

    slice: Slice
    experiment: Experiment
    changes: Mapping[str, Any]
    step: ProgramReport
    shares: Mapping[str, int]
    products: Products
    published: Products
    programs: Programs

    @property
    def fits(self) -> bool:
        """Whether the training step fits."""
        return self.step.fits

    @property
    def model_flops(self) -> float:
        """What a step must multiply, on all devices together."""
        return self._flops(self.products)

    @property
    def published_flops(self) -> float:
        """What the architecture as it was published would; see `flops.train_products`."""
        return self._flops(self.published)

    def _flops(self, products: Products) -> float:
        trains = any(path.startswith("model") for path in self.programs.state.trainable)
        return products.forward + products.backward(weights_train=trains)

    @property
    def seconds(self) -> float:
        """The estimated time of a step; 0 where it does not fit."""
        return self.step.estimate.seconds if self.step.estimate else 0.0

    @property
    def utilisation(self) -> float:
        """What it must multiply, over what the chips could in that time; 0 where it does not fit."""
        peak = self.slice.num_chips * self.slice.chip.peak_flops
        return self.model_flops / (self.seconds * peak) if self.seconds else 0.0

    def __str__(self) -> str:
        mesh = self.experiment.mesh
        changes = "".join(f", {key}={value}" for key, value in self.changes.items())
        where = f"{self.slice.name}, mesh {mesh.data} x {mesh.model}{changes}"
        room = f"{gib(self.step.needed_bytes)} of {gib(self.slice.chip.hbm_bytes)} GiB"
        if self.fits:
            return f"{where}: fits, {room}, {1e3 * self.seconds:.1f} ms a step, {self.utilisation:.0%} of peak"
        return f"{where}: does not fit, {room}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        asked: the setting that was asked for, on the best mesh if none was named; where none fits, the one that needs
            least.
        attempts: all that were tried, in order.
        nearest: the nearest setting that fits, where what was asked for does not; None: it does, or none was found.
    """

    asked: Attempt
    attempts: tuple[Attempt, ...]
    nearest: Attempt | None

    @property
    def chosen(self) -> Attempt:
        """What can be run: what was asked for, or the nearest that fits; else what was asked for."""
        return self.nearest or self.asked


def make_plan(experiment: Experiment, slice: Slice, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Compiles an experiment's training step for a slice, and looks for one that fits if it does not.

    A mesh that is left at its default is chosen: of those that fit, the fastest. Meshes are tried from the one that
    splits the model least, for the more a model is split the more goes over the links; the search ends where splitting
    it further makes the step slower.

    Args:
        experiment: what is to run.
        slice: where.
        say: is told of each attempt.

    Raises:
        CheckpointError: the model's architecture is not known.
        ValueError: the batch cannot be split over the slice.
        ImportError: the TPU compiler is not installed.
    """
    tried: list[Attempt] = []

    def attempt(experiment: Experiment, slice: Slice, changes: Mapping[str, Any]) -> Attempt:
        tried.append(try_setting(experiment, slice, changes))
        say(str(tried[-1]))
        return tried[-1]

    if experiment.mesh == MeshConfig():
        asked = _best_mesh(experiment, slice, {}, attempt)
    else:
        asked = attempt(experiment, slice, {})
    nearest = None if asked.fits else _nearest(experiment, asked, tried, attempt)
    return Plan(asked, tuple(tried), nearest)


def try_setting(experiment: Experiment, slice: Slice, changes: Mapping[str, Any]) -> Attempt:
    """Compiles the training step of one setting, unless its arguments alone do not fit."""
    programs, shares = _build(experiment, slice)
    held = sum(shares.values())
    if held > slice.chip.hbm_bytes:
        step = ProgramReport(held, False)
    else:
        step = compile_program(programs.lower_train_step(), _links(slice, programs))
    batch, train = programs.lengths, experiment.train
    shape = programs.model, train.batch_size, batch.inputs, batch.targets
    products, published = train_products(*shape), train_products(*shape, as_published=True)
    mesh = programs.model.mesh
    resolved = MeshConfig(1, 1) if mesh is None else MeshConfig(*mesh.devices.shape)
    return Attempt(
        slice, dataclasses.replace(experiment, mesh=resolved), changes, step, shares, products, published, programs
    )


def decode_reports(attempt: Attempt) -> dict[str, ProgramReport]:
    """Evaluation's programs: `prefill` reads inputs, `decode_step` one more token a row; `loss`, in pre-training."""
    links = _links(attempt.slice, attempt.programs)
    if attempt.experiment.corpus.objective:
        return {"loss": compile_program(attempt.programs.lower_loss(), links)}
    lowered = attempt.programs.lower_prefill()
    reports = {"prefill": compile_program(lowered, links)}
    if reports["prefill"].compiled is not None:
        step = attempt.programs.lower_decode_step(reports["prefill"].compiled, lowered)
        reports["decode_step"] = compile_program(step, links)
    return reports


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """An experiment with some config keys, such as `model.remat`, set anew."""
    for key, value in changes.items():
        section, name = key.split(".")
        changed = dataclasses.replace(getattr(experiment, section), **{name: value})
        experiment = dataclasses.replace(experiment, **{section: changed})
    return experiment


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f}"


_Attempting = Callable[[Experiment, Slice, Mapping[str, Any]], Attempt]


def _build(experiment: Experiment, slice: Slice) -> tuple[Programs, dict[str, int]]:
    programs = build_programs(experiment, describe_devices(slice))
    parts = {
        "frozen weights": programs.frozen,
        "trained": programs.state.trainable,
        "optimizer": programs.state.opt_state,
        "batch": programs.batch,
    }
    return programs, {name: device_bytes(tree) for name, tree in parts.items()}


def _links(slice: Slice, programs: Programs) -> Interconnect:
    mesh = programs.model.mesh
    return Interconnect.of(slice, describe_devices(slice)[:1] if mesh is None else list(mesh.devices.flat))


def _meshes(experiment: Experiment, slice: Slice) -> Iterator[MeshConfig]:
    """Meshes over all devices whose `data` divides the batch, the model split least first."""
    rows = experiment.train.batch_size // experiment.train.accumulate
    for model in range(1, slice.num_devices + 1):
        data, rest = divmod(slice.num_devices, model)
        if not rest and not rows % data:
            yield MeshConfig(data, model)


def _best_mesh(experiment: Experiment, slice: Slice, changes: Mapping[str, Any], attempt: _Attempting) -> Attempt:
    best = least = None
    for mesh in _meshes(experiment, slice):
        found = attempt(dataclasses.replace(experiment, mesh=mesh), slice, changes)
        if least is None or found.step.needed_bytes < least.step.needed_bytes:
            least = found
        if not found.fits:
            continue
        if best is not None and found.seconds >= best.seconds:
            break
        best = found
        if mesh.model == 1:  # nothing of the model goes over the links, so splitting it can only add to that
            break
    if least is None:
        rows = experiment.train.batch_size // experiment.train.accumulate
        raise ValueError(
            f"train.batch_size / train.accumulate = {rows} rows cannot be split over any mesh of {slice.num_devices} "
            "devices; make it a multiple of a divisor of that number"
        )
    return best or least


def _nearest(experiment: Experiment, asked: Attempt, tried: Sequence[Attempt], attempt: _Attempting) -> Attempt | None:
    """The first setting that fits: another mesh, other settings on the same slice, a larger slice."""
    slice = asked.slice
    if experiment.mesh != MeshConfig():  # else all meshes have been tried
        for mesh in _meshes(experiment, slice):
            if mesh != asked.experiment.mesh:
                found = attempt(dataclasses.replace(experiment, mesh=mesh), slice, {})
                if found.fits:
                    return found
    before = tuple(tried)
    least = min(before, key=lambda one: one.step.needed_bytes)
    settings: list[tuple[Attempt, dict[str, Any]]] = []
    if not experiment.model.shard_data:
        settings += [(one, {"model.shard_data": True}) for one in before if one.experiment.mesh.data > 1]
    settings += [(least, changes) for changes in _changes(least.experiment)]
    for start, changes in settings:
        changed = with_changes(start.experiment, changes)
        if _at_least(start, changed) > slice.chip.hbm_bytes:
            continue
        found = attempt(changed, slice, changes)
        if found.fits:
            return found
    larger: Slice | None = slice
    for _ in range(_LARGER):
        larger = larger.larger() if larger else None
        if larger is None or not any(_meshes(experiment, larger)):
            return None
        found = _best_mesh(dataclasses.replace(experiment, mesh=MeshConfig()), larger, {}, attempt)
        if found.fits:
            return found
    return None


def _changes(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Settings that keep less: one at a time, from the one that slows a step least, then all together.

    Full sharding is among them only together with others; by itself it has been tried on every mesh before.
    """
    model, train = experiment.model, experiment.train
    less = {"none": ("dots", "full"), "full": ()}.get(model.remat, ("full",))
    remat: list[dict[str, Any]] = [{"model.remat": policy} for policy in less]
    parts: list[dict[str, Any]] = []
    times = 2
    while not train.batch_size % (train.accumulate * times * experiment.mesh.data):
        parts.append({"train.accumulate": train.accumulate * times})
        times *= 2
    yield from (*remat, *parts)
    shard: list[dict[str, Any]] = []
    if not model.shard_data and experiment.mesh.data > 1:
        shard = [{"model.shard_data": True}]
    last = [kind[-1] for kind in (shard, remat, parts) if kind]
    for size in range(2, len(last) + 1):
        for chosen in itertools.combinations(last, size):
            yield functools.reduce(operator.or_, chosen)


def _at_least(before: Attempt, changed: Experiment) -> int:
    """What a setting takes at least, as far as that follows from another one's: no need to compile what cannot fit."""
    _, shares = _build(changed, before.slice)
    held = sum(shares.values())
    if changed.model.remat != before.experiment.model.remat:
        return held
    working = before.step.needed_bytes - sum(before.shares.values())
    return held + max(0, working) * before.experiment.train.accumulate // changed.train.accumulate
