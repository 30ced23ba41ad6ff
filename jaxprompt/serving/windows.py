"""A window of lines, from its bytes to its answers: checked, tokenised and grouped, computed, and in order again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.data.batching import make_batch
from jaxprompt.data.features import Feature
from jaxprompt.data.template import Template
from jaxprompt.serving.answer_config import AnswerConfig
from jaxprompt.serving.answering import Answering, Asked
from jaxprompt.serving.grouping import Group, group_rows
from jaxprompt.serving.input_lines import Lines, Position
from jaxprompt.serving.requests import ERROR, PREDICTION, SCORE, Request, RequestError, read_request
from jaxprompt.serving.throughput import Throughput
from jaxprompt.sharding import DATA, to_host, whole_rows

if TYPE_CHECKING:
    from jaxprompt.serving.bank import PromptBank


@dataclasses.dataclass(frozen=True)
class Window:
    """Lines ready for the device.

    Attributes:
        entries: of each line its request, or what is wrong with it.
        rows: the requests among them, as rows are numbered.
        asked: what they come to.
        features: their ids.
        groups: rows that are answered together.
        end: of the lines in the input.
    """

    entries: list[Request | RequestError]
    rows: list[Request]
    asked: list[Asked]
    features: list[Feature]
    groups: list[Group]
    end: Position


class WindowWork:
    """What becomes of a window of lines.

    Args:
        bank: the prompts that they may name, and their model.
        answers: how to answer for each prompt, by name.
        batch_size: rows at once.
        record_errors: whether a line that cannot be answered becomes a record of why; else it is an error.
        scores: whether answers come with their scores.

    Raises:
        ValueError: a prompt's labels are nothing to the tokenizer.
    """

    def __init__(
        self,
        bank: PromptBank,
        answers: Mapping[str, AnswerConfig],
        *,
        batch_size: int,
        record_errors: bool = False,
        scores: bool = False,
    ) -> None:
        self._bank, self._answering = bank, Answering(bank, answers)
        self._max_lengths = {name: answer.max_input_length for name, answer in answers.items()}
        self._record_errors, self._scores = record_errors, scores
        self._fields = {name: Template.parse(text).fields for name, text in bank.templates.items()}
        self._prefixes = dict(zip(bank.names, np.asarray(bank.prefix_length).tolist(), strict=True))
        self._batch_size = whole_rows(batch_size, bank.mesh)
        self._parts = 1 if bank.mesh is None else bank.mesh.shape[DATA]

    def prepare(self, lines: Lines, name: str) -> Window:
        """The host's part of the work.

        Args:
            lines: of the input.
            name: of the input, for messages.

        Raises:
            RequestError: a line that cannot be answered, unless such are recorded.
        """
        entries: list[Request | RequestError] = []
        for number, text in zip(lines.numbers, lines.texts, strict=True):
            try:
                entries.append(read_request(text, self._fields, f"{name}, line {number}"))
            except RequestError as error:
                entries.append(self._failure(error, f"{name}, line {number}", error.carried))
        found = self._encoded([entry for entry in entries if isinstance(entry, Request)])
        rows, asked, features = list[Request](), list[Asked](), list[Feature]()
        for number, entry in enumerate(entries):
            if isinstance(entry, RequestError):
                continue
            try:
                one, feature = self._checked(entry, next(found))
            except ValueError as error:
                entries[number] = self._failure(error, entry.place, entry.carried)
                continue
            rows.append(entry)
            asked.append(one)
            features.append(feature)
        lengths = [len(feature.input_ids) for feature in features]
        groups = group_rows([one.key for one in asked], lengths, self._batch_size, parts=self._parts)
        return Window(entries, rows, asked, features, list(groups), lines.end)

    def answer(self, window: Window, throughput: Throughput) -> list[dict[str, Any]]:
        """The output's lines, in the order of the input's; what they took is counted."""
        # Results stay on the device until all batches are on their way, so that it never waits for the host.
        started = []
        for group in window.groups:
            features = [window.features[row] for row in group.filled]
            batch = make_batch(
                features,
                pad_id=self._bank.config.pad_token_id,
                length=group.length,
                target_length=max(len(feature.target_ids) for feature in features),
            )
            started.append(self._answering.start(group.key, batch, [window.asked[row] for row in group.filled]))
        answers: dict[int, dict[str, Any]] = {}
        for group, results in zip(window.groups, to_host(started), strict=True):
            rows, asked = [window.rows[row] for row in group.rows], [window.asked[row] for row in group.rows]
            texts, scores, new = self._answering.read(group.key, results, rows, asked)
            real = sum(len(window.features[row].input_ids) for row in group.rows)
            throughput.batch(real, group.size * group.length, new)
            for row, text, score in zip(group.rows, texts, scores, strict=True):
                answers[row] = {PREDICTION: text} | ({SCORE: score} if self._scores else {})
        written, row = [], 0
        for entry in window.entries:
            if isinstance(entry, RequestError):
                written.append({**entry.carried, ERROR: str(entry)})
                throughput.line("", failed=True)
            else:
                written.append({**entry.carried, **answers[row]})
                throughput.line(entry.prompt)
                row += 1
        return written

    def _failure(self, error: ValueError, place: str, carried: Mapping[str, Any]) -> RequestError:
        if self._record_errors:
            return RequestError(f"{place}: {error}", carried)
        raise RequestError(
            f"{place}: {error}\nMend the line, or have an error written in its place with --on_error=record"
        ) from error

    def _encoded(self, requests: Sequence[Request]) -> Iterator[Feature | ValueError]:
        """The ids of each, or what prevents them."""
        found: list[Feature | ValueError] = [ValueError()] * len(requests)
        alike: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(self._max_lengths[request.prompt], []).append(number)
        for length, numbers in alike.items():
            try:
                made: Sequence[Feature | ValueError] = self._features([requests[number] for number in numbers], length)
            except ValueError:  # of some of them, which this does not tell
                made = [self._feature(requests[number], length) for number in numbers]
            for number, feature in zip(numbers, made, strict=True):
                found[number] = feature
        return iter(found)

    def _feature(self, request: Request, max_length: int) -> Feature | ValueError:
        try:
            return self._features([request], max_length)[0]
        except ValueError as error:
            return error

    def _features(self, requests: Sequence[Request], max_length: int) -> list[Feature]:
        names, rows = [request.prompt for request in requests], [request.fields for request in requests]
        return self._bank.features(names, rows, max_length=max_length)

    def _checked(self, request: Request, feature: Feature | ValueError) -> tuple[Asked, Feature]:
        if isinstance(feature, ValueError):
            raise feature
        asked = self._answering.ask(request)
        limit = getattr(self._bank.config, "max_positions", 0)
        taken = len(feature.input_ids) + self._prefixes[request.prompt] + asked.new_tokens - 1
        if limit and taken > limit:  # the last new token is never read
            raise RequestError(
                f"with its prompt and {asked.new_tokens} new tokens it takes {taken} positions of the model's {limit}; "
                "lower --max_input_length or --max_new_tokens"
            )
        return asked, feature
