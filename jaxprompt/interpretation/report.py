"""What is found in prompts, as plain values that JSON can hold; see `page` and `summary` for people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.interpretation import clusters, labels
from jaxprompt.interpretation.nearest import METRICS, nearest_tokens
from jaxprompt.interpretation.opened import Models, OpenedPrompt
from jaxprompt.interpretation.similarity import MEASURES, closest_sources, token_similarities
from jaxprompt.interpretation.vocabulary import Vocabulary
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.types import Injection

_DIGITS = 5


def interpret(
    prompts: Sequence[OpenedPrompt],
    models: Models,
    *,
    sources: Sequence[OpenedPrompt] = (),
    measure: str = "per_token",
    k: int = 10,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Looks at prompts, each for itself and beside the others.

    Args:
        prompts: to look at.
        models: whose words are compared to; where there is no model, all that needs none is still found.
        sources: prompts of other tasks to start the prompts' tasks from; they are compared, and ranked.
        measure: a key of `MEASURES`, which orders the sources.
        k: neighbours of each token.
        draws: random vectors of each kind that clusters are compared to.
        seed: of the draws.

    Returns:
        Plain values: `prompts`, a dict each; `similarity` of all prompts and sources, by measure, None where two cannot
        be compared; `labels_by_init`; `closest`, for each prompt the ranked sources; and the settings.

    Raises:
        ValueError: k or the measure is none that there is, two prompts have one name, or see `Models.of`.
    """
    compared = [*prompts, *sources]
    if len({prompt.name for prompt in compared}) < len(compared):
        raise ValueError(f"a prompt is given twice: {[prompt.place for prompt in compared]}")
    values: list[dict[str, Any]] = []
    found_labels = []
    random: dict[str, dict[str, clusters.Clusters]] = {}
    for prompt in prompts:
        lm = models.of(prompt)
        one = _facts(prompt)
        if isinstance(lm, LanguageModel):
            vocabulary = Vocabulary.of(lm)
            if lm.name not in random:
                size = min(clusters.SIZE, lm.config.vocab_size)
                random[lm.name] = clusters.random_clusters(vocabulary.table, draws, seed, size)
            words, found = _words(prompt, vocabulary, random[lm.name], min(k, lm.config.vocab_size))
            one |= words
            found_labels.append(found)
        else:
            one["no_neighbours"] = lm
        values.append(one)
    return {
        "k": k,
        "draws": draws,
        "seed": seed,
        "measure": measure,
        "prompts": values,
        "similarity": _similarity(compared),
        "labels_by_init": {
            init or "unknown": {name: _rounded(value) for name, value in row.items()}
            for init, row in labels.labels_by_init(found_labels).items()
        },
        "closest": {prompt.name: _closest(prompt, sources, measure) for prompt in prompts} if sources else {},
    }


def transfer_flags(source: OpenedPrompt, target: OpenedPrompt) -> str:
    """The flags with which the run of a target's task starts from a source's prompt (Vu et al. 2022, section 2).

    Args:
        source: the prompt to start from.
        target: the task's own prompt, whose method is to go on training it.
    """
    given = {"init": "npy" if source.meta is None else "saved", "path": source.place, "length": str(len(source.rows))}
    meta = target.meta or source.meta
    if meta is not None and meta.method == "prefix_tuning":
        given["reparametrization"] = "flat"
        if not source.is_prefix:
            given["embedding_only"] = "true"
    elif meta is not None and meta.method == "p_tuning":
        given["encoder"] = "none"
    return " ".join(f"--config.prompt.{key}={shlex.quote(value)}" for key, value in given.items())


def _facts(prompt: OpenedPrompt) -> dict[str, Any]:
    """What needs no model."""
    rows, meta = prompt.rows, prompt.meta
    similarities, norms = token_similarities(rows), np.linalg.norm(rows, axis=1)
    others = similarities[~np.eye(len(rows), dtype=bool)]
    return {
        "name": prompt.name,
        "place": prompt.place,
        "method": meta.method if meta else "",
        "task": meta.task if meta else "",
        "init": prompt.init,
        "labels": list(prompt.labels),
        "base_model": meta.base_model.name if meta else "",
        "score": dict(meta.score) if meta else {},
        "is_prefix": prompt.is_prefix,
        "length": len(rows),
        "width": rows.shape[1],
        "norms": _rounded(norms),
        "norm": _spread(norms),
        "similarities": _rounded(similarities),
        "mean_similarity": _rounded(others.mean()) if len(rows) > 1 else None,
        "prefix_norms": _prefix_norms(prompt.injection),
        "curves": {
            f"{split} {name}": [[step, value if math.isfinite(value) else None] for step, value in points]
            for (split, name), points in prompt.curves.items()
            if split != "train" or name == "loss"
        },
    }


def _words(
    prompt: OpenedPrompt, vocabulary: Vocabulary, random: Mapping[str, clusters.Clusters], k: int
) -> tuple[dict[str, Any], labels.LabelsFound]:
    """What a prompt has to do with the model's words."""
    rows = prompt.rows
    near = {metric: nearest_tokens(rows, vocabulary.table, k, metric) for metric in METRICS}
    size = min(clusters.SIZE, len(vocabulary.norms))
    own = clusters.clusters(rows, vocabulary.table, size)
    found = labels.find_labels(rows, near["cosine"], vocabulary, prompt.labels, prompt.init)
    compared = {name: clusters.compare(own, other) for name, other in random.items()}
    values = {
        "vocabulary": {"model": vocabulary.name, "size": len(vocabulary.norms), "norm": _spread(vocabulary.norms)},
        "neighbours": {
            metric: [
                [
                    {"id": token, "token": vocabulary.text(token), "value": _rounded(value)}
                    for token, value in zip(*row, strict=True)
                ]
                for row in zip(of.ids.tolist(), of.values.tolist(), strict=True)
            ]
            for metric, of in near.items()
        },
        "clusters": {
            "size": size,
            "tightness": _spread(own.tightness) | {"values": _rounded(own.tightness)},
            "nearest": _spread(own.nearest),
            "random": {
                name: {
                    "tightness": _spread(of.tightness),
                    "nearest": _spread(of.nearest),
                    "z": _rounded(compared[name].z),
                    "percentile": _rounded(compared[name].percentile),
                }
                for name, of in random.items()
            },
        },
        "shared_neighbours": [
            {"id": token, "token": vocabulary.text(token), "slots": list(slots)}
            for token, slots in clusters.shared_neighbours(near["cosine"].ids).items()
        ],
        "label_neighbours": [
            {
                "label": label.label,
                "subwords": [{"id": token, "token": vocabulary.text(token)} for token in label.subwords],
                "slots": list(label.slots),
                "whole_slots": list(label.whole_slots),
                "kept": label.kept,
            }
            for label in found.labels
        ],
    }
    return values, found


def _similarity(prompts: Sequence[OpenedPrompt]) -> dict[str, Any]:
    matrices = {
        name: [
            [_rounded(of(one.rows, other.rows)) if one.comparable(other) else None for other in prompts]
            for one in prompts
        ]
        for name, of in MEASURES.items()
    }
    return {"names": [prompt.name for prompt in prompts], **matrices}


def _closest(prompt: OpenedPrompt, sources: Sequence[OpenedPrompt], measure: str) -> list[dict[str, Any]]:
    for source in sources:
        if not prompt.comparable(source):
            raise ValueError(
                f"the source {source.place} cannot be compared with {prompt.place}: they differ in method, in width or "
                "in the model that they were trained on"
            )
    by_name = {source.name: source for source in sources}
    ranked = closest_sources(prompt.rows, {name: source.rows for name, source in by_name.items()}, measure)
    return [
        {
            "name": source.name,
            "task": meta.task if (meta := by_name[source.name].meta) else "",
            **{name: _rounded(getattr(source, name)) for name in MEASURES},
            "flags": transfer_flags(by_name[source.name], prompt),
        }
        for source in ranked
    ]


def _prefix_norms(injection: Injection) -> dict[str, dict[str, list[float]]]:
    """Of each stack the mean Euclidean norm of a position's keys, and of its values, over all heads, by layer."""

    def norms(array: Any) -> np.ndarray:
        return np.linalg.norm(np.asarray(array, np.float64).reshape(*array.shape[:2], -1), axis=-1).mean(axis=1)

    return {
        stack: {"keys": _rounded(norms(keys)), "values": _rounded(norms(values))}
        for stack, (keys, values) in injection.kv.items()
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    of = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
    return {name: _rounded(value) for name, value in of.items()}


def _rounded(value: Any) -> Any:
    """To the digits that a report needs; arrays as lists."""
    if value is None or isinstance(value, int):
        return value
    return np.round(np.asarray(value, np.float64), _DIGITS).tolist()
