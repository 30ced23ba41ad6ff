"""The architecture of a GPT-2, read from and written to Hugging Face's `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxprompt.models import layers

_HUGGING_FACE = {
    "d_model": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "max_positions": "n_positions",
    "activation": "activation_function",
    "embedding_dropout_rate": "embd_pdrop",
    "attention_dropout_rate": "attn_pdrop",
    "residual_dropout_rate": "resid_pdrop",
    "tied_head": "tie_word_embeddings",
    "scale_by_layer": "scale_attn_by_inverse_layer_idx",
    "scale_scores": "scale_attn_weights",
    "d_ff": "n_inner",
}
_SAME = ("vocab_size", "layer_norm_epsilon", "eos_token_id", "pad_token_id")


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The architecture of a GPT-2 (Radford et al. 2019). Field names are T5's where both families have the thing.

    Attributes:
        d_ff: width of the feed-forward layer; 0: four times d_model.
        max_positions: rows of the position table, virtual tokens and prefixes included.
        activation: a key of `layers.ACTIVATIONS`.
        tied_head: whether the output head is the embedding table.
        scale_scores: whether attention scores are divided by sqrt(d_kv).
        scale_by_layer: whether those of layer l (from 1) are also divided by l.
        pad_token_id: GPT-2 has no padding token; its end of text serves.
    """

    is_causal: ClassVar[bool] = True

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    max_positions: int
    d_ff: int = 0
    activation: str = "gelu_new"
    embedding_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    residual_dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-5
    tied_head: bool = True
    scale_scores: bool = True
    scale_by_layer: bool = False
    eos_token_id: int = 50256
    pad_token_id: int = 50256

    def __post_init__(self) -> None:
        """Fills in the feed-forward width, and refuses what no GPT-2 can have."""
        if self.d_model % self.num_heads:
            raise ValueError(f"a width of {self.d_model} cannot be divided among {self.num_heads} heads")
        if self.activation not in layers.ACTIVATIONS:
            raise ValueError(
                f"activation_function {self.activation!r} is not known; known: {sorted(layers.ACTIVATIONS)}"
            )
        if not self.d_ff:
            object.__setattr__(self, "d_ff", 4 * self.d_model)

    @property
    def has_dropout(self) -> bool:
        """Whether training draws any masks."""
        return bool(self.embedding_dropout_rate or self.attention_dropout_rate or self.residual_dropout_rate)

    @property
    def d_kv(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> GPT2Config:
        """Reads the contents of a Hugging Face `config.json`.

        Raises:
            ValueError: a required key is missing, or has a value that no GPT-2 can have.
        """
        names = _HUGGING_FACE | {name: name for name in _SAME}
        required = [names[field.name] for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        if missing := [key for key in required if key not in config]:
            raise ValueError(f"this GPT-2 config lacks {missing}; it has {sorted(config)}")
        values = {name: config[key] for name, key in names.items() if config.get(key) is not None}
        values.setdefault("eos_token_id", cls.eos_token_id)
        values.setdefault("pad_token_id", values["eos_token_id"])
        return cls(**values)

    def to_hf(self) -> dict[str, Any]:
        """The contents of a Hugging Face `config.json` that `from_hf` reads back to this config."""
        names = _HUGGING_FACE | {name: name for name in _SAME}
        return {names[key]: value for key, value in dataclasses.asdict(self).items()} | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "bos_token_id": self.eos_token_id,
        }
