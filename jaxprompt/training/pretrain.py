"""Pre-training on unlabelled text.

T5's span corruption, the LM adaptation that prompt tuning builds on, and GPT-2's causal language modelling.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxprompt.data import mini, objectives
from jaxprompt.data.corpus import open_corpus, reader
from jaxprompt.data.features import Feature
from jaxprompt.data.packing import Grouped, pack
from jaxprompt.data.pipeline import EvalBatches, TrainBatches, eval_batches, train_batches
from jaxprompt.experiment import ConfigError, CorpusConfig, Experiment
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.save import recover_hf, replace_hf
from jaxprompt.models.weight_files import WEIGHT_FILES
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.processes import main_says
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.sharding import data_share, place_rows, whole_rows
from jaxprompt.training.loop import Fitted, Score, fit
from jaxprompt.training.loss import LossConfig, LossSums, cross_entropy
from jaxprompt.training.train import in_model_dtype
from jaxprompt.types import Batch, Params

Objective = Callable[[Any, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Documents:
    """A corpus as a model reads it; made by `open_documents`.

    Attributes:
        train: documents by number, with a length.
        validation: other documents, in the same way.
        tokens: a document's tokens, without an end; of a long one at random a part.
        window: see `data.corpus.Corpus`.
    """

    train: Any
    validation: Any
    tokens: Callable[[Any, np.random.Generator], np.ndarray]
    window: int = 0


def pretrain(
    lm: LanguageModel,
    experiment: Experiment,
    workdir: epath.Path,
    *,
    progress: bool = True,
    stop_after: int | None = None,
) -> Fitted:
    """Trains every weight of a model on `experiment.corpus`, and leaves the best in `workdir/model`.

    What trains is kept in fp32, the model computes in its own dtype, and what is exported is in that. After each of
    `corpus.export_steps` the model of that moment is left in `workdir/model-STEP` too.

    Args:
        lm: where to start, random weights or another stage's.
        experiment: corpus, training, optimiser, evaluation and seed.
        workdir: the run's directory.
        progress: whether to show a progress bar.
        stop_after: save and return after this many updates.
    """
    train, corpus = experiment.train, experiment.corpus
    model = patch(lm, ModelTuning())
    documents = open_documents(lm, corpus, experiment.seed)
    validation = corpus_batches(lm, corpus, experiment.eval.batch_size, experiment.seed, documents)
    sums = jax.jit(functools.partial(loss_sums, model))

    def evaluate(params: Params) -> Score:
        weights = in_model_dtype(model, params)
        total = functools.reduce(
            lambda a, b: a + b, (sums(weights, place_rows(batch, lm.mesh)) for batch in validation)
        )
        values = {name: float(value) for name, value in total.metrics().items() if name.startswith("token_")}
        return Score(values, -values["token_cross_entropy"])

    def save(params: Params, name: str) -> None:
        replace_hf(dataclasses.replace(lm, params=in_model_dtype(model, params)["model"]), workdir / name)

    with contextlib.closing(corpus_stream(lm, corpus, train.batch_size, experiment.seed, documents)) as batches:
        go_on = functools.partial(
            fit,
            model,
            batches,
            train=train,
            optim=experiment.optim,
            workdir=workdir,
            seed=experiment.seed,
            eval_every=experiment.eval.every,
            evaluate=evaluate,
            export=lambda params, best: save(params, "model"),
            progress=progress,
        )
        last = train.steps if stop_after is None else min(stop_after, train.steps)
        for step in _wanting(workdir, corpus.export_steps, last):
            # A stop with a checkpoint, from which the next call goes on, so that a kill in between loses nothing.
            fitted = go_on(stop_after=step)
            if fitted.step == step:
                save(fitted.params, _export_name(step))
            if fitted.finished or step == last:
                return fitted
            del fitted  # whose weights would lie beside those of the next call
        return go_on(stop_after=stop_after)


def _export_name(step: int) -> str:
    return f"model-{step}"


def _wanting(workdir: epath.Path, steps: Iterable[int], last: int) -> list[int]:
    """The steps up to `last` whose exports are not there yet, or not complete, in order."""
    wanting = []
    for step in sorted(set(steps)):
        directory = workdir / _export_name(step)
        recover_hf(directory)
        there = (directory / "config.json").exists() and any((directory / name).exists() for name in WEIGHT_FILES)
        if step <= last and not main_says(there):  # file systems may show it to some processes later
            wanting.append(step)
    return wanting


def open_documents(lm: LanguageModel, corpus: CorpusConfig, seed: int) -> Documents:
    """The corpus that a configuration names, as tokens of a model.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: there is no such dataset or split, or too little text in it.
    """
    if corpus.source == "mini":
        train, validation = corpus.documents, corpus.validation_documents
        return Documents(
            _mini_documents(lm, corpus, train, seed),
            _mini_documents(lm, corpus, validation, seed + 1_000_003),
            lambda tokens, rng: tokens,
        )
    found = open_corpus(
        corpus.source,
        train_split=corpus.train_split,
        validation_split=corpus.validation_split,
        validation_documents=corpus.validation_documents,
        max_documents=corpus.max_documents,
        field=corpus.field,
        data_dir=corpus.data_dir,
    )
    tokens = reader(lm.tokenizer, lm.config.vocab_size, corpus.max_length)
    return Documents(found.train, found.validation, tokens, found.window)


def corpus_stream(
    lm: LanguageModel, corpus: CorpusConfig, batch_size: int, seed: int, documents: Documents | None = None
) -> TrainBatches:
    """Training batches without end: rows of documents in random order, the objective applied to each anew.

    Args:
        lm: the model that is to read them.
        corpus: the section of the experiment.
        batch_size: rows of the global batch.
        seed: of the order, the objective, and of the embedded text itself.
        documents: the corpus, where it is open already.

    Raises:
        ConfigError: the objective is not one for this model.
    """
    objective, eos = _objective(lm, corpus), lm.config.eos_token_id
    documents = documents or open_documents(lm, corpus, seed)
    read, shortest = documents.tokens, _shortest(corpus)
    row_targets = corpus.row_length if lm.config.is_causal else corpus.row_targets
    share, count = data_share(lm.mesh)

    def packed_row(group: list[Any], rng: np.random.Generator) -> Feature:
        texts = [tokens for tokens in (read(document, rng) for document in group) if len(tokens) >= shortest]
        if not texts:  # a row has to hold something, be it that a text without words is at its end
            return _feature(lm, (np.array([eos], np.int32),) * 2)
        if corpus.joined:
            # One place is left for the end of text that may open a context.
            texts = objectives.join(texts, rng, eos=eos, share=corpus.joined, length=corpus.row_length - 1)
        return pack([_feature(lm, objective(tokens, rng)) for tokens in texts], corpus.row_length, row_targets)

    return train_batches(
        Grouped(documents.train, corpus.documents_per_row),
        batch_size=batch_size,
        seed=seed,
        pad_id=lm.config.pad_token_id,
        buckets=corpus.row_length,
        target_buckets=row_targets,
        transform=packed_row,
        window=-(-documents.window // corpus.documents_per_row),
        process_index=share,
        process_count=count,
    )


def corpus_batches(
    lm: LanguageModel, corpus: CorpusConfig, batch_size: int, seed: int, documents: Documents | None = None
) -> EvalBatches:
    """The validation batches: other documents, one a row, the objective applied to each once and for all.

    Arguments and errors are those of `corpus_stream`.
    """
    objective = _objective(lm, corpus)
    documents = documents or open_documents(lm, corpus, seed)
    features = []
    for number in range(len(documents.validation)):
        rng = np.random.default_rng((seed, number))
        tokens = documents.tokens(documents.validation[number], rng)
        if len(tokens) >= _shortest(corpus):
            features.append(_feature(lm, objective(tokens, rng)))
    return eval_batches(features, batch_size=whole_rows(batch_size, lm.mesh), pad_id=lm.config.pad_token_id)


def _shortest(corpus: CorpusConfig) -> int:
    """Tokens that a text needs for an example: one to read and one to predict, or an end to predict."""
    return 1 if corpus.objective == "causal_lm" else 2


def loss_sums(model: PatchedModel, params: Params, batch: Batch) -> LossSums:
    """What the validation loss of a batch is the quotient of."""
    logits = model.apply(params, batch)
    config = LossConfig("tokens", z_loss=0.0)
    return cross_entropy(logits, batch.targets, batch.target_weights, config, batch.target_segments)[1]


def _mini_documents(lm: LanguageModel, corpus: CorpusConfig, count: int, seed: int) -> objectives.Chunks:
    return objectives.chunks(
        functools.partial(mini.document, seed, mixture=corpus.mixture),
        lm.tokenizer,
        eos=lm.config.eos_token_id,
        count=count,
        length=corpus.max_length,
    )


def _feature(lm: LanguageModel, example: tuple[np.ndarray, np.ndarray]) -> Feature:
    inputs, targets = example
    return Feature(inputs, targets, target_positions=np.arange(len(targets)) if lm.config.is_causal else None)


def _objective(lm: LanguageModel, corpus: CorpusConfig) -> Objective:
    eos = lm.config.eos_token_id
    if lm.config.is_causal != (corpus.objective == "causal_lm"):
        raise ConfigError(
            f"corpus.objective is {corpus.objective!r}, but {lm.name} is of the family {lm.family}; causal_lm is for "
            "gpt2, span_corruption and prefix_lm are for t5"
        )
    if corpus.objective == "causal_lm":
        return functools.partial(objectives.causal_lm, eos=eos)
    if corpus.objective == "prefix_lm":
        borders = [lm.tokenizer.convert_tokens_to_ids(token) for token in corpus.split_after]
        return functools.partial(
            objectives.prefix_lm, eos=eos, split_after=borders, max_targets=corpus.max_targets or None
        )
    first_sentinel = lm.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    return functools.partial(objectives.span_corruption, sentinel_start=first_sentinel, eos=eos)
