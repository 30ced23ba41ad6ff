"""The names that T5's parameters have in Hugging Face and in T5X checkpoints, and what only such files hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxprompt.models.name_table import NameTable
from jaxprompt.models.weight_source import CheckpointError, TensorSource, same_values

# torch's Linear keeps [out, in], so its matrices come transposed.
HUGGING_FACE = NameTable(
    rules=(
        (r"shared/embedding", r"shared.weight", "V E -> V E"),
        (r"lm_head/kernel", r"lm_head.weight", "V E -> E V"),
        (
            r"(encoder|decoder)/relative_attention_bias/embedding",
            r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "buckets H -> buckets H",
        ),
        (r"(encoder|decoder)/final_layer_norm/scale", r"\1.final_layer_norm.weight", "E -> E"),
        (
            r"(encoder|decoder)/block/self_attention/([qkv])/kernel",
            r"\1.block.{layer}.layer.0.SelfAttention.\2.weight",
            "(H D) E -> E H D",
        ),
        (
            r"(encoder|decoder)/block/self_attention/o/kernel",
            r"\1.block.{layer}.layer.0.SelfAttention.o.weight",
            "E (H D) -> H D E",
        ),
        (r"(encoder|decoder)/block/self_attention_norm/scale", r"\1.block.{layer}.layer.0.layer_norm.weight", "E -> E"),
        (
            r"decoder/block/cross_attention/([qkv])/kernel",
            r"decoder.block.{layer}.layer.1.EncDecAttention.\1.weight",
            "(H D) E -> E H D",
        ),
        (
            r"decoder/block/cross_attention/o/kernel",
            r"decoder.block.{layer}.layer.1.EncDecAttention.o.weight",
            "E (H D) -> H D E",
        ),
        (r"decoder/block/cross_attention_norm/scale", r"decoder.block.{layer}.layer.1.layer_norm.weight", "E -> E"),
        (
            r"encoder/block/feed_forward/(wi|wi_0|wi_1|wo)/kernel",
            r"encoder.block.{layer}.layer.1.DenseReluDense.\1.weight",
            "out in -> in out",
        ),
        (r"encoder/block/feed_forward_norm/scale", r"encoder.block.{layer}.layer.1.layer_norm.weight", "E -> E"),
        (
            r"decoder/block/feed_forward/(wi|wi_0|wi_1|wo)/kernel",
            r"decoder.block.{layer}.layer.2.DenseReluDense.\1.weight",
            "out in -> in out",
        ),
        (r"decoder/block/feed_forward_norm/scale", r"decoder.block.{layer}.layer.2.layer_norm.weight", "E -> E"),
    ),
    # The last only in tied models: in untied ones lm_head.weight is a parameter, and no alias.
    aliases=((r"(encoder|decoder)\.embed_tokens\.weight", "shared.weight"), (r"lm_head\.weight", "shared.weight")),
    # A table that early conversions wrote by mistake: cross-attention has no relative positions.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
)

# T5X keeps [in, out] with heads joined; its layers stand apart, for layers are not scanned in the released checkpoints.
T5X = NameTable(
    rules=(
        (r"shared/embedding", r"token_embedder.embedding", "V E -> V E"),
        (r"lm_head/kernel", r"decoder.logits_dense.kernel", "E V -> E V"),
        (
            r"(encoder|decoder)/relative_attention_bias/embedding",
            r"\1.relpos_bias.rel_embedding",
            "H buckets -> buckets H",
        ),
        (r"(encoder|decoder)/final_layer_norm/scale", r"\1.\1_norm.scale", "E -> E"),
        *(
            (rf"{stack}/block/{ours}/{letter}/kernel", rf"{stack}.layers_{{layer}}.{theirs}.{word}.kernel", layout)
            for stack, ours, theirs in (
                ("encoder", "self_attention", "attention"),
                ("decoder", "self_attention", "self_attention"),
                ("decoder", "cross_attention", "encoder_decoder_attention"),
            )
            for letter, word, layout in (
                ("q", "query", "E (H D) -> E H D"),
                ("k", "key", "E (H D) -> E H D"),
                ("v", "value", "E (H D) -> E H D"),
                ("o", "out", "(H D) E -> H D E"),
            )
        ),
        (
            r"encoder/block/self_attention_norm/scale",
            r"encoder.layers_{layer}.pre_attention_layer_norm.scale",
            "E -> E",
        ),
        (
            r"decoder/block/(self|cross)_attention_norm/scale",
            r"decoder.layers_{layer}.pre_\1_attention_layer_norm.scale",
            "E -> E",
        ),
        (
            r"(encoder|decoder)/block/feed_forward/(wi|wi_0|wi_1|wo)/kernel",
            r"\1.layers_{layer}.mlp.\2.kernel",
            "in out -> in out",
        ),
        (
            r"(encoder|decoder)/block/feed_forward_norm/scale",
            r"\1.layers_{layer}.pre_mlp_layer_norm.scale",
            "E -> E",
        ),
    ),
)


def stores_own_head(source: TensorSource) -> bool | None:
    """Whether a Hugging Face checkpoint stores an output head that is not the embedding table; None: it stores none.

    Files of tied models may repeat the table under the head's name, and files of untied ones may have a configuration
    that does not say so.
    """
    if "lm_head.weight" not in source.tensors:
        return None
    tables = [n for n in source.tensors if n == "shared.weight" or n.endswith(".embed_tokens.weight")]
    return not any(same_values(source, "lm_head.weight", table) for table in tables)


def hf_config_of_t5x(source: TensorSource) -> dict[str, Any]:
    """The contents of a `config.json` for a T5X checkpoint, which has none, from the shapes of its tensors.

    What shapes do not tell is taken from the released models: T5 1.1 (gated) uses gelu, T5 1.0 relu; distances up to
    128; ids pad 0, end 1, decoder start 0.

    Raises:
        CheckpointError: the tensors that tell the shape are not there.
    """
    shapes = {name: info.shape for name, info in source.tensors.items()}
    gated = "encoder.layers_0.mlp.wi_0.kernel" in shapes
    try:
        vocab_size, d_model = shapes["token_embedder.embedding"]
        num_heads, num_buckets = shapes["encoder.relpos_bias.rel_embedding"]
        joined = shapes["encoder.layers_0.attention.query.kernel"][1]
        d_ff = shapes["encoder.layers_0.mlp.wo.kernel"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source.location} does not hold a T5 as T5X names it ({error!r}); it holds {_sample(shapes)}"
        ) from error
    return {
        "model_type": "t5",
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": joined // num_heads,
        "d_ff": d_ff,
        "num_layers": _num_layers(shapes, "encoder"),
        "num_decoder_layers": _num_layers(shapes, "decoder"),
        "num_heads": num_heads,
        "relative_attention_num_buckets": num_buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": "decoder.logits_dense.kernel" not in shapes,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _num_layers(shapes: Mapping[str, Any], stack: str) -> int:
    prefix = f"{stack}.layers_"
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _sample(names: Mapping[str, Any]) -> str:
    return f"{len(names)} tensors such as {sorted(names)[:5]}"
