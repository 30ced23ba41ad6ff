"""Our side of training: what a user of the library gets by default, dropout and all."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprompt as jp
from jaxprompt.data.batching import make_batch, of_one_shape
from jaxprompt.data.features import Feature
from jaxprompt.models.initialize import random_model
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.layered import apart
from jaxprompt.models.load import abstract_params, family_of, load_tokenizer
from jaxprompt.planning.flops import train_products
from jaxprompt.training.members import Member, stacked_start
from jaxprompt.training.optim import make_optimizer, split_trainable
from jaxprompt.training.step import init_state, make_train_step
from jaxprompt.training.task_batches import task_batches
from paired.flops import matrix_flops
from paired.shapes import Case, EpochCase
from paired.turns import Work


def language_model(case: Case, tokenizer: Any = None, *, abstract: bool = False) -> LanguageModel:
    """The case's model, of random weights; or of their shapes alone."""
    family = family_of(case.architecture, case.model)
    module: Any = family.module(family.configure(case.architecture, None), dtype=jnp.dtype(case.dtype))
    if abstract:
        return LanguageModel(module, abstract_params(module), tokenizer, module.config, case.model, family.name)
    return random_model(family.name, module, jax.random.key(0), tokenizer=tokenizer, name=case.model)


def patched(case: Case, lm: LanguageModel, template: str | None = None) -> jp.PatchedModel:
    """That model with a place for the case's prompt."""
    return jp.patch(lm, jp.PromptTuning(case.prompt, init="random"), template)


def random_rows(case: Case, model: jp.PatchedModel, seed: int = 0, *, for_generation: bool = False) -> jp.Batch:
    """A batch of random ids, every row as long as the case says."""
    rng, vocab_size = np.random.default_rng(seed), model.config.vocab_size
    slots = [] if model.as_prefix else list(range(vocab_size, vocab_size + case.prompt))
    features = []
    for _ in range(case.batch):
        ids = np.asarray([*slots, *rng.integers(3, vocab_size - 1, case.input)], np.int32)
        target = rng.integers(3, vocab_size - 1, case.target).astype(np.int32)
        positions = None
        if case.is_causal and not for_generation:
            positions = len(ids) - 1 + np.arange(case.target, dtype=np.int32)
            ids = np.concatenate([ids, target[:-1]])
        features.append(Feature(ids, target, target_positions=positions))
    return make_batch(
        features,
        pad_id=model.config.pad_token_id,
        length=len(features[0].input_ids),
        target_length=case.target,
    )


def train_step(case: Case) -> Work:
    """One step on one batch."""
    model = patched(case, language_model(case))
    state, frozen, step = _one_prompt(model)
    batch = random_rows(case, model)
    compiled, facts = _compiled(step, state, frozen, batch)
    products = train_products(model, case.batch, batch.inputs.shape[1], case.target)
    facts["needed_flops"] = products.forward + products.backward(weights_train=False)
    facts["parameters"] = model.lm.num_params
    return Work(_stepper(compiled, state, frozen, lambda: batch), facts, device_peak(case))


def seeds(case: Case) -> Work:
    """One step of as many prompts as the case says, each on a batch of its own."""
    model = patched(case, language_model(case))
    train, optim = jp.TrainConfig(num_prompts=case.prompts), jp.OptimConfig()
    members = [Member(seed, optim.learning_rate) for seed in range(case.prompts)]
    trainable, frozen, keys = stacked_start(model, model.method.rules, members)
    optimizer = make_optimizer(optim, model.method.rules, trainable, train.steps, rated=True)
    state = init_state(trainable, optimizer, keys, stacked=True)
    rates = (1.0,) * case.prompts
    step = make_train_step(model, optimizer, train.loss, dropout=train.dropout, rates=rates)
    rows = [random_rows(case, model, seed) for seed in range(case.prompts)]
    batches, frozen = tuple(of_one_shape(rows, model.config.pad_token_id)), apart(frozen)
    compiled, facts = _compiled(step, state, frozen, batches)
    return Work(_stepper(compiled, state, frozen, lambda: batches), facts, device_peak(case))


def epoch_task(case: EpochCase, *, abstract: bool = False) -> tuple[jp.PatchedModel, Any]:
    """The patched model that reads the case's texts, and their task."""
    task = jp.load_task(case.task or None, case.source)
    tokenizer = load_tokenizer(case.tokenizer, case.architecture["model_type"])
    return patched(case, language_model(case, tokenizer, abstract=abstract), task.format.input), task


def epoch(case: EpochCase) -> Work:
    """The next batch of an epoch, from the pipeline that a run reads; every shape is compiled beforehand."""
    model, task = epoch_task(case)

    def batches() -> Any:
        (stream,), count = task_batches(
            model, task, case.split, batch_size=case.batch, seeds=[0], max_examples=case.examples
        )
        return stream, count // case.batch

    probe, steps = batches()
    state, frozen, step = _one_prompt(model)
    shapes: dict[Any, int] = {}
    real = total = 0
    for _ in range(steps):
        batch = next(probe)
        shape = batch.inputs.shape, batch.targets.shape
        if shape not in shapes:
            state, _ = step(state, frozen, batch)
        shapes[shape] = shapes.get(shape, 0) + 1
        real, total = real + int(np.sum(batch.input_segments > 0)), total + batch.inputs.size
    probe.close()
    stream, _ = batches()
    listed = {f"{'x'.join(map(str, inputs))} -> {targets[1]}": times for (inputs, targets), times in shapes.items()}
    facts = {"steps": steps, "shapes": listed, "padding_share": 1 - real / total, "input_tokens": real}
    return Work(_stepper(step, state, frozen, lambda: next(stream)), facts, device_peak(case))


def compilation(case: Case) -> Work:
    """Tracing, lowering and compiling the step of a model that is never made."""
    model = patched(case, language_model(case, abstract=True))

    def init(weights: Any) -> Any:
        lm = LanguageModel(model.lm.module, weights, None, model.config, case.model, model.lm.family)
        return {"model": weights, "prompt": model.method.init_params(jax.random.key(0), lm)}

    trainable, frozen = split_trainable(jax.eval_shape(init, model.lm.params), model.method.rules)
    train = jp.TrainConfig()
    optimizer = make_optimizer(jp.OptimConfig(), model.method.rules, trainable, train.steps)
    state = jax.eval_shape(lambda tree: init_state(tree, optimizer, jax.random.key(0)), trainable)
    batch = random_rows(case, model)
    facts: dict[str, Any] = {}

    def run(times: int) -> None:
        for _ in range(times):
            jax.clear_caches()
            step = make_train_step(model, optimizer, train.loss, dropout=train.dropout)
            _, found = _compiled(step, state, frozen, batch)
            facts.update(found)

    return Work(run, facts)


def matrix_products(case: Case) -> Work:
    """Products of square matrices, whose operations a second are taken for the machine's peak."""
    size = 8192 if case.device == "gpu" else 2048
    a, b = (jax.random.normal(jax.random.key(seed), (size, size), jnp.dtype(case.dtype)) for seed in (0, 1))
    multiply = jax.jit(jnp.matmul)

    def run(times: int) -> None:
        jax.block_until_ready([multiply(a, b) for _ in range(times)])

    return Work(run, {"flops": 2.0 * size**3, "in": f"jax {jax.__version__}", "size": size})


def device_peak(case: Case) -> Callable[[], int] | None:
    """What asks the accelerator for the most that it held."""
    if case.device == "cpu":
        return None
    return lambda: (jax.local_devices()[0].memory_stats() or {})["peak_bytes_in_use"]


def _one_prompt(model: jp.PatchedModel) -> tuple[Any, Any, Any]:
    """State, frozen weights and step of a run with default settings."""
    train = jp.TrainConfig()
    trainable, frozen = split_trainable(model.init_params(jax.random.key(1)), model.method.rules)
    optimizer = make_optimizer(jp.OptimConfig(), model.method.rules, trainable, train.steps)
    state = init_state(trainable, optimizer, jax.random.key(2))
    return state, apart(frozen), make_train_step(model, optimizer, train.loss, dropout=train.dropout)


def _compiled(step: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    began = time.perf_counter()
    traced = step.trace(*arguments)
    lowered = traced.lower()
    traced_in = time.perf_counter() - began
    compiled = lowered.compile()
    stats: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis() or {}
    facts = {
        "jax": jax.__version__,
        "trace_s": traced_in,
        "compile_s": time.perf_counter() - began - traced_in,
        "matrix_flops": matrix_flops(traced.jaxpr),
        "compiler_flops": float(costs.get("flops", math.nan)),
        "compiler_bytes": {
            "arguments": stats.argument_size_in_bytes,
            "outputs": stats.output_size_in_bytes,
            "aliased": stats.alias_size_in_bytes,
            "temporaries": stats.temp_size_in_bytes,
        },
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }
    return compiled, facts


def _stepper(step: Any, state: Any, frozen: Any, batches: Callable[[], Any]) -> Callable[[int], None]:
    def run(times: int) -> None:
        nonlocal state
        losses: Sequence[Any] = []
        for _ in range(times):
            state, metrics = step(state, frozen, batches())
            losses = [*losses, metrics["loss"]]
        if not all(np.all(np.isfinite(loss)) for loss in jax.device_get(losses)):
            raise FloatingPointError(f"a loss is not finite: {losses}")

    return run
