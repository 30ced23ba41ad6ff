"""How rows are answered: what each prompt was told to do, as programs that rows of several prompts share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxprompt.evaluation.decode import generate_scored
from jaxprompt.evaluation.generation_config import GenerationConfig
from jaxprompt.evaluation.ranking import PADDING, rank_choices
from jaxprompt.serving.answer_config import AnswerConfig
from jaxprompt.serving.requests import Request, RequestError
from jaxprompt.types import Batch

if TYPE_CHECKING:
    from jaxprompt.serving.bank import PromptBank


class Asked(NamedTuple):
    """A request, ready for its program.

    Attributes:
        key: names the program; requests of one key can share a batch.
        choices: their ids, Int[ndarray, "C T"], where the likeliest is asked for.
        texts: and what they say; of C choices, those beyond the texts repeat the first.
        new_tokens: that the model reads and writes behind the input, at most.
    """

    key: Hashable
    choices: np.ndarray | None
    texts: tuple[str, ...]
    new_tokens: int


class Answering:
    """Answers to rows of a bank's prompts.

    Args:
        bank: the prompts and their model.
        answers: what to do with each prompt's rows, by its name.

    Raises:
        ValueError: a prompt's labels cannot be told apart, or the tokenizer does not know them.
    """

    def __init__(self, bank: PromptBank, answers: Mapping[str, AnswerConfig]) -> None:
        self._bank, self._answers = bank, answers
        self._labels = {
            name: self._ranked(name, answer.labels)
            for name, answer in answers.items()
            if answer.method == "rank" and answer.labels
        }

    def ask(self, request: Request) -> Asked:
        """What a request comes to.

        Raises:
            RequestError: there is nothing to rank, or choices for a prompt that generates.
        """
        answer = self._answers[request.prompt]
        if answer.method != "rank":
            if request.choices:
                raise RequestError(
                    f"it has choices, but the answers of the prompt {request.prompt!r} are generated; rank them with "
                    f"--method={request.prompt}=rank, or leave them out"
                )
            return Asked(answer.generation(), None, (), answer.max_new_tokens)
        if request.choices:
            try:
                return self._ranked(request.prompt, request.choices)
            except ValueError as error:
                raise RequestError(str(error)) from error
        if request.prompt not in self._labels:
            raise RequestError(
                f"the prompt {request.prompt!r} was saved without labels, so there is nothing to rank; give the line "
                f"its own `choices`, or generate with --method={request.prompt}=greedy"
            )
        return self._labels[request.prompt]

    def start(self, key: Hashable, batch: Batch, asked: Sequence[Asked]) -> tuple[Any, ...]:
        """Hands a batch to the device: (scores,) of choices, or (ids, scores) of what is generated.

        Args:
            key: that all rows have.
            batch: B rows.
            asked: of each row.
        """
        if isinstance(key, GenerationConfig):
            generated = generate_scored(self._bank, self._bank.params, batch, key)
            return generated.ids[:, 0], generated.scores[:, 0]
        choices = np.stack([one.choices for one in asked if one.choices is not None])
        return (rank_choices(self._bank, self._bank.params, batch, choices),)

    def read(
        self, key: Hashable, results: Sequence[np.ndarray], requests: Sequence[Request], asked: Sequence[Asked]
    ) -> tuple[list[str], list[float], int]:
        """The texts, their scores, and how many tokens were generated, of what `start` gave.

        Args:
            key: that all rows have.
            results: on the host; rows beyond those of the requests are fillers.
            requests: of each row that is none.
            asked: what they came to.
        """
        if isinstance(key, GenerationConfig):
            ids, scores = (rows[: len(asked)] for rows in results)
            texts = self._bank.to_texts([request.prompt for request in requests], ids)
            return texts, scores.tolist(), self._count(ids)
        # Among equals the first is taken, and what repeats the first stands behind it.
        best = results[0][: len(asked)].argmax(-1).tolist()
        texts = [
            one.texts[choice] if choice < len(one.texts) else one.texts[0]
            for one, choice in zip(asked, best, strict=True)
        ]
        return texts, results[0][: len(asked)].max(-1).tolist(), 0

    def _count(self, ids: np.ndarray) -> int:
        """Tokens up to and with the first end of text in each row."""
        ended = np.cumsum(ids == self._bank.config.eos_token_id, axis=1)
        return int((np.pad(ended, ((0, 0), (1, 0)))[:, :-1] == 0).sum())

    def _ranked(self, prompt: str, texts: Sequence[str]) -> Asked:
        """Choices in one of a few shapes, so that prompts with about as many labels share a program."""
        ids = self._bank.choice_ids([prompt], [texts])[0]
        count, length = (1 << (size - 1).bit_length() for size in ids.shape)
        ids = np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=PADDING)
        ids = np.concatenate([ids, np.repeat(ids[:1], count - len(ids), axis=0)])
        return Asked((count, length), ids, tuple(texts), length)
