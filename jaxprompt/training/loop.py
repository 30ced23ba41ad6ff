"""The training loop: steps, metrics, evaluation, checkpoints and the best export, read top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxprompt import sharding, trees
from jaxprompt.data.pipeline import TrainBatches
from jaxprompt.experiment import TrainConfig
from jaxprompt.models.layered import apart
from jaxprompt.patching import PatchedModel
from jaxprompt.paths import as_path
from jaxprompt.processes import Agreement
from jaxprompt.training.checkpoint import Checkpoints
from jaxprompt.training.members import (
    Bests,
    Member,
    MemberBatches,
    broken_members,
    logged,
    numbers,
    of_members,
    stacked_start,
    take,
)
from jaxprompt.training.metric_writers import MetricWriters, require_libraries
from jaxprompt.training.optim import OptimConfig, make_optimizer, split_trainable
from jaxprompt.training.preemption import Preempted, Signals
from jaxprompt.training.profiling import Profile
from jaxprompt.training.progress import Progress
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.training.workdir import make_writable, require_space
from jaxprompt.types import Batch, Params


class TrainingDiverged(RuntimeError):  # noqa: N818
    """A loss, gradient, update or score is not a finite number."""


_ADVICE = (
    "The last good checkpoint and the best export are kept; nothing of this step was saved. Lower optim.learning_rate, "
    "set optim.clip_norm, or check the inputs for ids that name no virtual token"
)


@dataclasses.dataclass(frozen=True)
class Score:
    """What an evaluation found.

    Attributes:
        values: metrics by name.
        selection: the number that chooses the best checkpoint; more is better.
    """

    values: Mapping[str, float]
    selection: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run came to.

    Attributes:
        step: updates made.
        finished: whether there is nothing left to do: all steps are made, or scores ceased to improve; False where the
            run was told to stop before.
        params: the last ones, `{'model': …, 'prompt': …}`.
        best: `{"step": …, "selection": …, "values": {…}}` of the best evaluation, or None before the first; of several
            prompts, the best one's, with its number as `"member"`.
        seconds: wall time spent training, over all sittings of the run, evaluation and compilation included.
        num_trainable: numbers in the trainable tree, of one prompt where there are several.
        num_frozen: numbers in the frozen tree.
        members: of several prompts, what `best` says of each.
        lost: of several prompts, those whose training diverged, and how.
    """

    step: int
    finished: bool
    params: Params
    best: dict[str, Any] | None
    seconds: float
    num_trainable: int
    num_frozen: int
    members: tuple[dict[str, Any] | None, ...] = ()
    lost: Mapping[int, str] = dataclasses.field(default_factory=dict)


def fit(
    model: PatchedModel,
    batches: TrainBatches | MemberBatches,
    *,
    train: TrainConfig,
    optim: OptimConfig,
    workdir: str | epath.PathLike,
    seed: int,
    eval_every: int,
    evaluate: Callable[[Params], Score | Sequence[Score]],
    export: Callable[[Params, dict[str, Any]], None],
    rules: trees.Rules[str] | None = None,
    members: Sequence[Member] = (),
    progress: bool = True,
    stop_after: int | None = None,
) -> Fitted:
    """Trains what the rules name, or goes on where a run in the same directory stopped.

    A resumed run ends bit-identical to one that never stopped, `metrics.jsonl` included: state, random key, position in
    the data, best score and metrics not yet logged come from its newest checkpoint.

    SIGTERM and SIGINT end it with a checkpoint after the step, or the evaluation, that is under way. An evaluation that
    is due after that step is made when the run goes on, but for the last one.

    Args:
        model: the patched model.
        batches: training batches without end; for several prompts, a batch of each at a time.
        train: steps, patience, loss, logging, checkpoints and traces.
        optim: the optimiser.
        workdir: gets `metrics.jsonl` and `checkpoints/`, the newest ones; what scored best is what `export` kept.
            `train` may ask for `tensorboard/`, `wandb/` and `profile/`.
        seed: of initialisation and dropout.
        eval_every: steps between evaluations; there is one at the end besides.
        evaluate: scores parameters; those of several prompts, which are stacked, with a score for each.
        export: keeps parameters that scored best so far, the first of equals, with {"step", "selection", "values"}; of
            several prompts each one's, with {"member", "leads"} besides: its number, and whether it is the best of all.
        members: several prompts to be trained together, see `training.members`; empty: one. One that diverges is left
            out from then on, and the run goes on as long as there are others.
        rules: ordered (regex, label) over paths, labels `train` and `freeze`; None: the prompt method's.
        progress: whether to show a progress bar.
        stop_after: save and return after this many updates in all, before `train.steps`.

    Raises:
        TrainingDiverged: a loss, gradient, update or score is not finite; the last good checkpoint is kept.
        CheckpointMismatch: the directory's checkpoints belong to a run of other shapes.
        Preempted: a signal ended the run; all steps made are saved.
        OSError: the directory cannot be written to, or has no room for the checkpoints.
        ImportError: a library that `train` asks for is not installed.
    """
    require_libraries(train)
    workdir = as_path(workdir)
    rules = model.method.rules if rules is None else rules
    mesh = model.mesh
    sharding.check_rows(train.batch_size // train.accumulate, mesh, "train.batch_size / train.accumulate")
    if members:
        trainable, frozen, keys = stacked_start(model, rules, members)
    else:
        init_key, keys = jax.random.split(jax.random.key(seed))
        trainable, frozen = split_trainable(model.init_params(init_key), rules)
    optimizer = make_optimizer(optim, rules, trainable, train.steps, rated=bool(members))
    state = init_state(trainable, optimizer, keys, mesh, stacked=bool(members))
    train_step = make_train_step(
        model,
        optimizer,
        train.loss,
        dropout=train.dropout,
        accumulate=train.accumulate,
        unweighted=(model.config.eos_token_id, *model.target_start) if train.text_only else (),
        shardings=None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, state),
        rates=[member.learning_rate / optim.learning_rate for member in members],
    )
    counts = _size(trainable) // max(1, len(members)), _size(frozen)
    runnable = apart(frozen)  # in the same memory
    del trainable
    make_writable(workdir)
    require_space(workdir, sum(leaf.nbytes for leaf in jax.tree.leaves(state)), train.keep_checkpoints)

    with contextlib.ExitStack() as stack:
        signals, agreement = stack.enter_context(Signals()), Agreement()
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=train.keep_checkpoints))
        done, earlier, owed = 0, 0.0, False
        bests = Bests(members, train.patience * eval_every)
        window: list[Mapping[str, Any]] = []  # metrics of the steps since the last line about training
        if checkpoints.latest_step() is not None:
            state, record, done = checkpoints.restore(state)
            batches.set_state(record["data"])
            earlier, window = record["seconds"], record["window"]
            bests.restore(record)
            owed = record.get("owed", False)

        log = stack.enter_context(MetricWriters(workdir, done, train, owed=owed))
        profile = stack.enter_context(Profile(workdir / "profile", train.profile_from, train.profile_steps, done=done))
        began = time.monotonic()
        last = train.steps if stop_after is None else min(train.steps, stop_after)
        bar = stack.enter_context(Progress(train.steps, done, shown=progress))

        def assess(step: int) -> None:
            found = evaluate(trees.merge(state.trainable, runnable))
            scores = [found] if isinstance(found, Score) else list(found)
            for number, score in enumerate(scores):
                if not math.isfinite(score.selection):
                    diverged(number, f"the evaluation after step {step} gave {dict(score.values)}")
            values = of_members([score.values for score in scores]) if members else scores[0].values
            log.write(step, "validation", logged([values], bests.lost, each=list(values)))
            for number, score in enumerate(scores):
                if (best := bests.improved(number, step, score.selection, score.values)) is not None:
                    own = take(state.trainable, number) if members else state.trainable
                    # Before the checkpoint that remembers it: a kill between repeats the export.
                    export(trees.merge(own, frozen), best)
            bar.restart()

        def diverged(number: int, how: str) -> None:
            bests.lost.setdefault(number, how)
            if len(bests.lost) >= max(1, len(members)):
                raise TrainingDiverged(f"{how}. {_ADVICE}")

        def finite(window: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
            """Metrics of the steps up to and with `step` as numbers; only here the loop waits for the device."""
            rows: list[Mapping[str, Any]] = [numbers(row) for row in jax.device_get(list(window))]
            for at, row in enumerate(rows, start=step - len(rows) + 1):
                for number, broken in broken_members(row).items():
                    diverged(number, f"step {at} gave {broken}")
            return rows

        if owed:
            assess(done)
        stops = agreement.any(signals.received is not None)
        _, shares = sharding.data_share(mesh)
        for step in range(done + 1, last + 1):
            if stops or bests.wait_in_vain(done):
                break
            batch: Any = next(batches)
            with profile.before(step):
                state, metrics = train_step(state, runnable, sharding.place_local_rows(batch, mesh))
            profile.after(step, state)
            window.append(metrics)
            bar.step(shares * _num_tokens(batch, causal=model.config.is_causal))
            stops = agreement.any(signals.received is not None)
            evaluates = step % eval_every == 0 or step == train.steps
            saves = step % train.checkpoint_every == 0 or step == last or stops
            logs = step % train.log_every == 0 or evaluates
            if logs or saves:
                window = finite(window, step)
            if logs:
                values = logged(window, bests.lost)
                log.write(step, "train", values)
                rates = bar.rates()
                log.write_rates(step, "speed", rates)
                shown = f"{best['selection']:.3f}" if (best := bests.overall) else "-"
                bar.show(rates, loss=f"{values['loss']:.3g}", best=shown)
                window = []
            owed = evaluates and stops and step < train.steps  # who is told to stop may not have the time
            if evaluates and not owed:
                assess(step)
                # Evaluation takes long, and leaves no window to look through.
                stops = agreement.any(signals.received is not None)
            if saves or stops or bests.wait_in_vain(step):
                seconds = earlier + time.monotonic() - began
                record = {"data": batches.get_state(), "seconds": seconds, "window": window, "owed": owed}
                record |= bests.record()
                log.flush()
                checkpoints.save(step, state, record)
            done = step
        checkpoints.wait()
    if stops:
        saved = f"after step {done} of {train.steps}, which is saved" if done else "before the first step"
        by = "another process" if signals.received is None else signals.received.name
        raise Preempted(f"stopped by {by} {saved}; the same command goes on from there")
    params = trees.merge(state.trainable, frozen)
    finished = done >= train.steps or bests.wait_in_vain(done)
    seconds = earlier + time.monotonic() - began
    each = tuple(bests.each) if members else ()
    return Fitted(done, finished, params, bests.overall, seconds, *counts, members=each, lost=bests.lost)


def _num_tokens(batch: Batch | tuple[Batch, ...], *, causal: bool) -> int:
    """Tokens that the model reads, padding left out; the targets of causal rows are among their inputs."""
    if isinstance(batch, tuple):
        return sum(_num_tokens(one, causal=causal) for one in batch)
    rows = [batch.input_segments] if causal else [batch.input_segments, batch.target_segments]
    return sum(int(np.count_nonzero(segments)) for segments in rows)


def _size(tree: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in trees.flatten(tree).values())
