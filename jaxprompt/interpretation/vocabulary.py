"""A model's vocabulary as people can read it, with the embeddings that prompts are compared to."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxprompt.models.language_model import LanguageModel

_SPACE = "␣"
_WHITE = str.maketrans({" ": _SPACE, "\n": "⏎", "\t": "⇥", "\r": "␍"})
_SENTENCEPIECE, _BYTE_LEVEL = "\u2581", "\u0120"  # how the two kinds of tokenizers write a space


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """What is kept of a language model to look for neighbours in.

    Attributes:
        name: the model's directory or hub name.
        table: its input embeddings, [V, E].
        tokenizer: its transformers tokenizer; None: tokens go by their numbers.
    """

    name: str
    table: Float[Array, "V E"]
    tokenizer: Any

    @classmethod
    def of(cls, lm: LanguageModel) -> Vocabulary:
        """That of a loaded model; whatever else the model holds can go."""
        return cls(lm.name, lm.embedding_table, lm.tokenizer)

    @functools.cached_property
    def norms(self) -> np.ndarray:
        """The Euclidean norm of each row, [V]."""
        lengths = jax.jit(lambda table: jnp.linalg.norm(table.astype(jnp.float32), axis=1))
        return np.asarray(lengths(jnp.asarray(self.table)), np.float64)

    def text(self, token: int) -> str:
        """A token as people can read it: `␣` is a space, and `row 32110` a row that no token of the tokenizer has."""
        piece = None
        if self.tokenizer is not None and token < len(self.tokenizer):
            piece = self.tokenizer.convert_ids_to_tokens(int(token))
        if piece is None:
            return f"row {token}"
        if not self._is_byte_level:
            return piece.replace(_SENTENCEPIECE, _SPACE).translate(_WHITE)
        text = self.tokenizer.convert_tokens_to_string([piece])
        if "\ufffd" not in text:
            return text.translate(_WHITE)
        return "".join(f"<{_byte_of(letter):02X}>" for letter in piece)  # a part of a character

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text without special ones, unknown ones and ones that are nothing but a space."""
        if self.tokenizer is None:
            return ()
        found = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.tokenizer.unk_token_id
        # GPT-2's unknown token is its end of text, which an encoded text never has.
        return tuple(token for token in found if token != unknown and self.text(token).strip(_SPACE))

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        pieces = self.tokenizer.get_vocab()
        return _BYTE_LEVEL in pieces and _SENTENCEPIECE not in pieces


def _byte_of(letter: str) -> int:
    """The byte that a byte-level tokenizer writes as this letter.

    Bytes that are printable in Latin-1 are their own letters; the others are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if ord(letter) in printable:
        return ord(letter)
    return [byte for byte in range(256) if byte not in printable][ord(letter) - 0x100]
