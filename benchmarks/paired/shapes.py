"""What is measured: models by name, and a case as data. Light to import, for every side's process does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

PUBLISHED = {
    "t5_small": "t5-small-lm-adapt",
    "t5_base": "t5-base-lm-adapt",
    "t5_large": "t5-large-lm-adapt",
    "t5_xl": "t5-xl-lm-adapt",
    "t5_xxl": "t5-xxl-lm-adapt",
    "gpt2_small": "gpt2",
    "gpt2_medium": "gpt2-medium",
    "gpt2_xl": "gpt2-xl",
}
"""Models of published shapes, by their names in `jaxprompt.planning.architectures`."""

# What `config.json` of the published ones says besides, and what transformers' own defaults do not.
_T5 = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.1}

NANO: dict[str, dict[str, Any]] = {
    "t5_nano": {
        "model_type": "t5",
        "vocab_size": 1792,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "gpt2_nano": {
        "model_type": "gpt2",
        "vocab_size": 1792,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 128,
        "eos_token_id": 1,
    },
}
"""Models that run in no time, to see whether a benchmark does."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One setting, the same for both sides.

    Attributes:
        model: a name in `PUBLISHED` or `NANO`; its weights are random.
        prompt: virtual tokens, in front.
        batch: rows.
        input: tokens of text in a row.
        target: tokens that are predicted behind it; when generating, exactly so many.
        beams: of the search; 1: greedy decoding.
        prompts: trained together, or served at once.
        device: `cpu` or `gpu`.
        dtype: of weights and computation; the prompt is fp32 on both sides.
        compiled: whether the peer's model goes through torch.compile.
        architecture: the contents of the model's `config.json`; `resolved` fills it in.
    """

    model: str
    prompt: int = 100
    batch: int = 8
    input: int = 128
    target: int = 8
    beams: int = 1
    prompts: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_causal(self) -> bool:
        """Whether the model is a GPT-2."""
        return self.model.startswith("gpt2")

    @property
    def shapes(self) -> dict[str, Any]:
        """What the report says of it."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "architecture"}

    def resolved(self, **changes: Any) -> Any:
        """The case with its model's architecture, and with some fields changed.

        Raises:
            ValueError: no model has that name.
        """
        if self.model not in PUBLISHED and self.model not in NANO:
            raise ValueError(f"there is no model {self.model!r}; expected one of {sorted(PUBLISHED | NANO)}")
        raw = NANO.get(self.model)
        if raw is None:
            from jaxprompt.planning.architectures import ARCHITECTURES

            raw = ARCHITECTURES[PUBLISHED[self.model]]
        architecture = raw if self.is_causal else {**raw, **_T5}
        return dataclasses.replace(self, architecture=architecture, **changes)


@dataclasses.dataclass(frozen=True)
class EpochCase(Case):
    """An epoch over texts.

    Attributes:
        source: of the task, as `load_task` takes it.
        task: its name; empty: told by the source.
        split: what is trained on.
        tokenizer: a directory, or the name of an embedded model.
        examples: the first so many of the split; 0: all.
        rows: for the peer, each example's ids and its target's, without virtual tokens.
    """

    source: str = ""
    task: str = ""
    split: str = "train"
    tokenizer: str = "nano-t5"
    examples: int = 0
    rows: tuple[tuple[Any, Any], ...] = ()

    @property
    def shapes(self) -> dict[str, Any]:
        """What the report says of it."""
        own = {"input": "as the texts are", "target": "as the texts are", "examples": len(self.rows)}
        left_out = ("rows", "source", "tokenizer")
        return {key: value for key, value in (super().shapes | own).items() if key not in left_out}
