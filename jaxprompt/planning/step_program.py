"""From an experiment to its programs: the real training step and decode step, of shapes alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from jaxprompt import sharding, trees
from jaxprompt.data import mini, tasks
from jaxprompt.data.batching import choose_buckets
from jaxprompt.data.mixture import common_format
from jaxprompt.data.named_source import NamedSource
from jaxprompt.data.row_encoder import RowEncoder
from jaxprompt.data.task_format import TaskFormat
from jaxprompt.evaluation.decodable import inputs_only
from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.models import quantization
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import abstract_params, family_of, shardings_of
from jaxprompt.models.platforms import planned_for
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.planning.architectures import read_architecture
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.training.optim import TUNE_MODEL, make_optimizer, split_trainable
from jaxprompt.training.pretrain import loss_sums
from jaxprompt.training.step import TrainState, init_state, make_train_step, state_shardings
from jaxprompt.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Rows as the longest examples of a task make them.

    Attributes:
        inputs: ids of a training row, S.
        targets: ids of its target, T.
        prompts: ids of a row that is to be continued.
    """

    inputs: int
    targets: int
    prompts: int


@dataclasses.dataclass(frozen=True)
class Programs:
    """An experiment's programs on a mesh, ready to be compiled; all arrays are shapes that know where they lie.

    Attributes:
        experiment: whose programs they are.
        model: the patched model; its parameters are shapes.
        lengths: of the rows.
        state: what trains, its optimiser's state, and the random key.
        frozen: what does not train.
        batch: one training batch.
        eval_batch: inputs to continue, as many rows as an evaluation reads at once.
    """

    experiment: Experiment
    model: PatchedModel
    lengths: Lengths
    state: TrainState
    frozen: Params
    batch: Batch
    eval_batch: Batch

    def train_step(self) -> Any:
        """The jitted training step, as `fit` makes it."""
        train, mesh = self.experiment.train, self.model.mesh
        return make_train_step(
            self.model,
            _optimizer(self.experiment, self.model, self.state.trainable),
            train.loss,
            dropout=train.dropout,
            accumulate=train.accumulate,
            unweighted=(self.model.config.eos_token_id,) if train.text_only else (),
            shardings=None if mesh is None else jax.tree.map(lambda leaf: leaf.sharding, self.state),
        )

    def lower_train_step(self) -> jax.stages.Lowered:
        """The training step, ready to be compiled."""
        return self._lowered(self.train_step(), self.state, self.frozen, self.batch)

    def lower_prefill(self) -> jax.stages.Lowered:
        """What reads the inputs of an evaluation's batch, and gives the cache that decoding goes on with."""

        def prefill(params: Params, batch: Batch) -> tuple[jax.Array, Any]:
            logits, cache = self.model.prefill(params, batch, self.lengths.targets)
            if (beams := self.experiment.eval.num_beams) > 1:
                rows = jnp.repeat(jnp.arange(logits.shape[0]), beams)
                return logits[rows], cache.take_rows(rows, same_inputs=True)
            return logits, cache

        return self._lowered(jax.jit(prefill), self._params(), self.eval_batch)

    def lower_loss(self) -> jax.stages.Lowered:
        """What pre-training's evaluation makes of a batch of its own, the loss."""
        rows, whole = self.eval_batch.inputs.shape[0], self.eval_batch.inputs.sharding
        batch = _abstract_batch(rows, self.lengths.inputs, self.lengths.targets, self.model, self.model.mesh, whole)
        return self._lowered(jax.jit(functools.partial(loss_sums, self.model)), self._params(), batch)

    def lower_decode_step(self, prefill: jax.stages.Compiled, lowered: jax.stages.Lowered) -> jax.stages.Lowered:
        """What reads one more token a row.

        Args:
            prefill: compiled; the cache lies where it leaves it.
            lowered: the same before it was compiled.
        """
        placed = lambda out, where: jax.ShapeDtypeStruct(out.shape, out.dtype, sharding=where)  # noqa: E731
        logits, cache = jax.tree.map(placed, lowered.out_info, prefill.output_shardings)
        where = logits.sharding if self.model.mesh is None else _rows(self.model.mesh, logits.shape[0])
        tokens = jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32, sharding=where)
        return self._lowered(jax.jit(self.model.decode_step, donate_argnums=2), self._params(), tokens, cache)

    def _lowered(self, function: Any, *args: Any) -> jax.stages.Lowered:
        with planned_for(next(iter(self.batch.inputs.sharding.device_set)).platform):
            return function.lower(*args)

    def _params(self) -> Params:
        """The parameters as evaluation reads them: those of the model in its own dtype."""
        params = trees.merge(self.state.trainable, self.frozen)
        dtype = self.model.lm.module.dtype
        own = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), params["model"]
        )
        return {**params, "model": own}


def build_programs(experiment: Experiment, devices: Sequence[jax.Device]) -> Programs:
    """An experiment's programs on devices that need not exist.

    Nothing is downloaded or allocated, and neither weights nor a tokenizer are needed.

    Args:
        experiment: its `mesh` says how the devices are used.
        devices: of a slice, from `topologies.describe_devices`.

    Raises:
        CheckpointError: the model's architecture is not known.
        ConfigError: the task's format is not known.
        ValueError: the devices, or the batch, cannot be split as `mesh` says.
    """
    mesh = sharding.make_mesh(experiment.mesh.data, experiment.mesh.model, devices)
    train = experiment.train
    sharding.check_rows(train.batch_size // train.accumulate, mesh, "train.batch_size / train.accumulate")
    whole: Sharding = SingleDeviceSharding(devices[0]) if mesh is None else sharding.replicated(mesh)
    lm = abstract_model(experiment, mesh, whole)
    model, lengths = _patch(experiment, lm)
    trainable, frozen = split_trainable(_abstract_params(model, whole), _rules(experiment, model))
    optimizer = _optimizer(experiment, model, trainable)
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer, jax.random.key(0)), trainable)
    places = jax.tree.map(lambda _: whole, state) if mesh is None else state_shardings(state, trainable, mesh)
    state = jax.tree.map(_placed, state, places)
    parts = 1 if mesh is None else mesh.shape[sharding.DATA]
    eval_rows = -(-experiment.eval.batch_size // parts) * parts
    eval_batch = _abstract_batch(eval_rows, lengths.prompts, lengths.targets, model, mesh, whole)
    return Programs(
        experiment,
        model,
        lengths,
        state,
        frozen,
        _abstract_batch(train.batch_size, lengths.inputs, lengths.targets, model, mesh, whole),
        inputs_only(dataclasses.replace(eval_batch, target_positions=None)),
    )


def abstract_model(experiment: Experiment, mesh: Mesh | None, whole: Sharding) -> LanguageModel:
    """The experiment's language model with shapes for parameters and without a tokenizer.

    Args:
        experiment: names it.
        mesh: that its parameters are split over.
        whole: where they lie if there is none.
    """
    path = experiment.model.path
    raw = read_architecture(path)
    family = family_of(raw, path)
    # One layer in a turn of the compiled loop, as on a TPU; the host that plans is a CPU.
    module = family.module(
        family.configure(raw, None),
        dtype=jnp.dtype(experiment.model.dtype),
        remat=experiment.model.remat,
        unroll=1,
        mesh=mesh,
        attention_kernel=experiment.model.attention,
    )
    shapes = abstract_params(module)
    places = jax.tree.map(lambda _: whole, shapes)
    if mesh is not None:
        places = shardings_of(family, shapes, mesh, shard_data=experiment.model.shard_data)
    params = jax.tree.map(_placed, shapes, places)
    if experiment.model.quantize:
        params = quantization.abstract(params, experiment.model.quantize)
    return LanguageModel(module, params, None, module.config, path, family.name, mesh)


def task_format(experiment: Experiment) -> TaskFormat:
    """The format of the experiment's task, with the experiment's lengths, without a look at its source.

    Raises:
        ConfigError: neither the task's name nor its source tells it.
    """
    config = experiment.task
    kind, _, place = config.source.partition(":")
    known = {**tasks.FORMATS, **mini.FORMATS}
    name = config.name or (place.partition(":")[0].rpartition("/")[2] if kind == "tfds" else place)
    names = [NamedSource.parse(text).name for text in config.mixture] or [name]
    if known.keys() >= set(names):
        format = common_format({one: known[one] for one in names}) if config.mixture else known[name]
    elif config.max_input_length and config.max_target_length:
        format = TaskFormat(name or "text", "{input}", lambda record: ())
    else:
        raise ConfigError(
            f"the lengths of task {name!r} (task.source={config.source!r}) are not known here; set task.name, "
            "or task.max_input_length and task.max_target_length"
        )
    changes = {key: getattr(config, key) for key in ("max_input_length", "max_target_length") if getattr(config, key)}
    return dataclasses.replace(format, **changes)


def _patch(experiment: Experiment, lm: LanguageModel) -> tuple[PatchedModel, Lengths]:
    """The patched model, and its rows' lengths where every example is as long as it may be."""
    corpus = experiment.corpus
    if corpus.objective:
        targets = corpus.row_length if lm.config.is_causal else corpus.row_targets
        return patch(lm, ModelTuning()), Lengths(corpus.row_length, targets, corpus.row_length)
    format, prompt = task_format(experiment), experiment.prompt
    template = experiment.task.template(prompt.template or format.input)
    model = patch(lm, prompt.build(format.init_words), template, prepend=prompt.prepend)
    encoder = RowEncoder(
        model.template,
        None,
        model.config.vocab_size,
        model.config.eos_token_id,
        causal=model.config.is_causal,
        slots_in_rows=not model.as_prefix,
        prefix_length=model.prefix_length,
    )
    # Batches are padded to a bucket, and the largest is a round one.
    inputs, prompts = (
        choose_buckets([encoder.longest_row(format, generated)], 1, count=1)[-1] for generated in (False, True)
    )
    return model, Lengths(inputs, format.max_target_length, prompts)


def _abstract_params(model: PatchedModel, whole: Sharding) -> Params:
    """The shapes of `model.init_params`, which do not depend on how a prompt starts."""
    method: Any = model.method
    if any(field.name == "init" for field in dataclasses.fields(method)):
        method = dataclasses.replace(method, init="random")

    def init(weights: Params) -> Params:
        return method.init_params(jax.random.key(0), dataclasses.replace(model.lm, params=weights))

    prompt = jax.tree.map(lambda leaf: _placed(leaf, whole), jax.eval_shape(init, model.lm.params))
    return {"model": model.lm.params, "prompt": prompt}


def _rules(experiment: Experiment, model: PatchedModel) -> trees.Rules[str]:
    alone = isinstance(model.method, ModelTuning)
    return TUNE_MODEL if experiment.train.tune_model and not alone else model.method.rules


def _optimizer(experiment: Experiment, model: PatchedModel, trainable: Params) -> Any:
    # How many steps an epoch has depends on the data, and changes a number in the program.
    config = dataclasses.replace(experiment.optim, schedule_every=experiment.optim.schedule_every or 1)
    return make_optimizer(config, _rules(experiment, model), trainable, experiment.train.steps)


def _abstract_batch(
    rows: int, inputs: int, targets: int, model: PatchedModel, mesh: Mesh | None, whole: Sharding
) -> Batch:
    where = whole if mesh is None else _rows(mesh, rows)
    ids = lambda *shape: jax.ShapeDtypeStruct((rows, *shape), jnp.int32, sharding=where)  # noqa: E731
    return Batch(
        inputs=ids(inputs),
        input_segments=ids(inputs),
        targets=ids(targets),
        target_segments=ids(targets),
        target_weights=jax.ShapeDtypeStruct((rows, targets), jnp.float32, sharding=where),
        index=ids(),
        target_positions=ids(targets) if model.config.is_causal else None,
    )


def _rows(mesh: Mesh, rows: int) -> Sharding:
    return sharding.replicated(mesh) if rows % mesh.shape[sharding.DATA] else sharding.rows(mesh)


def _placed(leaf: jax.ShapeDtypeStruct, where: Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
