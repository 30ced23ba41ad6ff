import dataclasses
import json

import jax
import pytest

import jaxprompt as jp
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import abstract_params
from jaxprompt.models.t5 import T5
from jaxprompt.models.t5_config import T5Config

# What every published file has.
COMMON = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_kv": 64,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "output_past": True, "use_cache": True}
SMALL = {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6}

# The contents of published config.json files, as far as they matter, by the model's name on the hub.
FILES = {
    # T5 1.0: no word of the activation, the head or the decoder's depth.
    "t5-small": COMMON | {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "n_positions": 512,
                          "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}},
    "t5-3b": COMMON | {"d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24, "num_heads": 32},
    "google/t5-v1_1-small": COMMON | V1_1 | SMALL,
    "google/t5-small-lm-adapt": COMMON | V1_1 | SMALL | {"dense_act_fn": "gelu_new", "is_gated_act": True,
                                                         "relative_attention_max_distance": 128},
    "google/flan-t5-small": COMMON | V1_1 | SMALL | {"n_positions": 512, "transformers_version": "4.23.1"},
    "google/mt5-small": COMMON | V1_1 | SMALL | {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"],
                                                 "vocab_size": 250112, "tokenizer_class": "T5Tokenizer"},
    "google/byt5-small": COMMON | V1_1 | {"vocab_size": 384, "d_model": 1472, "d_ff": 3584, "num_layers": 12,
                                          "num_decoder_layers": 4, "num_heads": 6, "tokenizer_class": "ByT5Tokenizer"},
    "google/t5-efficient-tiny-nl6": COMMON | {"d_model": 256, "d_ff": 1024, "num_layers": 6, "num_decoder_layers": 6,
                                              "num_heads": 4, "feed_forward_proj": "relu", "n_positions": 512},
}  # fmt: skip

TIED = {"tied_head": True, "scale_decoder_outputs": True, "is_gated": False, "feed_forward_activation": "relu"}
UNTIED = {"tied_head": False, "scale_decoder_outputs": False, "is_gated": True, "feed_forward_activation": "gelu_new"}
EXPECTED = {
    "t5-small": TIED | {"num_layers": 6, "num_decoder_layers": 6, "d_kv": 64},
    "t5-3b": TIED | {"d_kv": 128, "num_heads": 32, "num_decoder_layers": 24},
    "google/t5-v1_1-small": UNTIED | {"num_heads": 6, "num_decoder_layers": 8},
    "google/t5-small-lm-adapt": UNTIED | {"d_model": 512},
    "google/flan-t5-small": UNTIED | {"d_ff": 1024},
    "google/mt5-small": UNTIED | {"vocab_size": 250112},
    "google/byt5-small": UNTIED | {"vocab_size": 384, "num_layers": 12, "num_decoder_layers": 4},
    "google/t5-efficient-tiny-nl6": TIED | {"num_layers": 6, "d_model": 256},
}


@pytest.mark.parametrize("name", FILES)
def test_published_files(name):
    config = T5Config.from_hf(FILES[name])
    stated = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.1,
              "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1,
              "decoder_start_token_id": 0}  # fmt: skip
    stated |= {key: FILES[name][key] for key in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")}
    for key, value in (stated | EXPECTED[name]).items():
        assert getattr(config, key) == value, key


@pytest.mark.parametrize("name", FILES)
def test_transformers_reads_the_same(name):
    transformers = pytest.importorskip("transformers")
    ours = T5Config.from_hf(FILES[name])
    # And what we write, it reads as it reads the original.
    for contents in (FILES[name], ours.to_hf()):
        theirs = transformers.T5Config.from_dict(contents)
        activation = (theirs.dense_act_fn, theirs.is_gated_act)
        assert (ours.feed_forward_activation, ours.is_gated) == activation
        assert ours.num_decoder_layers == theirs.num_decoder_layers
        assert ours.scale_decoder_outputs == theirs.scale_decoder_outputs
        shared = {f.name for f in dataclasses.fields(ours)} & vars(theirs).keys()
        assert {"d_kv", "d_ff", "num_heads", "relative_attention_max_distance"} < shared
        assert {key: getattr(ours, key) for key in shared} == {key: getattr(theirs, key) for key in shared}


@pytest.mark.parametrize("tied", [True, False])
def test_files_that_transformers_writes(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    contents = {key: value for key, value in FILES["google/t5-v1_1-small"].items() if key != "tie_word_embeddings"}
    transformers.T5Config.from_dict(contents | {"tie_word_embeddings": tied}).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # Its word on the head is not to be had from version 5 on; what the checkpoint stores decides.
    config = T5Config.from_hf(written, untied=not tied)
    assert (config.tied_head, config.scale_decoder_outputs) == (tied, tied)
    assert config == T5Config.from_hf(contents | {"tie_word_embeddings": tied})


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_reads_back(name):
    config = T5Config.from_hf(FILES[name])
    assert T5Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    other = dataclasses.replace(
        config, relative_attention_num_buckets=6, dropout_rate=0.0, scale_decoder_outputs=not config.tied_head,
        feed_forward_activation="silu", eos_token_id=7, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    assert T5Config.from_hf(json.loads(json.dumps(other.to_hf()))) == other


def test_what_the_checkpoint_stores_goes_before_what_the_file_says():
    silent, untied = FILES["t5-small"], FILES["google/t5-v1_1-small"]
    assert T5Config.from_hf(silent, untied=True).tied_head is False
    assert T5Config.from_hf(untied, untied=False).tied_head is True
    # The scale is the file's to say: a head of its own does not undo it.
    assert T5Config.from_hf(silent, untied=True).scale_decoder_outputs is True
    assert T5Config.from_hf(silent | {"scale_decoder_outputs": False}).scale_decoder_outputs is False


@pytest.mark.parametrize(
    ("projection", "activation", "gated"),
    [("relu", "relu", False), ("gelu", "gelu", False), ("gated-relu", "relu", True), ("gated-silu", "silu", True),
     ("gated-gelu", "gelu_new", True), ("gelu_new", "gelu_new", False)],
)  # fmt: skip
def test_feed_forward_kinds(projection, activation, gated):
    config = T5Config.from_hf(FILES["t5-small"] | {"feed_forward_proj": projection})
    assert (config.feed_forward_activation, config.is_gated) == (activation, gated)
    assert T5Config.from_hf(config.to_hf()) == config


def test_null_means_absent():
    config = T5Config.from_hf(FILES["t5-small"] | {"num_decoder_layers": None, "pad_token_id": None})
    assert (config.num_decoder_layers, config.pad_token_id) == (6, 0)


def shape(d_model, d_ff, num_layers, num_heads):
    return {"d_model": d_model, "d_ff": d_ff, "num_layers": num_layers, "num_heads": num_heads}


LM_ADAPTED = {
    "small": shape(512, 1024, 8, 6),
    "base": shape(768, 2048, 12, 12),
    "large": shape(1024, 2816, 24, 16),
    "xl": shape(2048, 5120, 24, 32),
    "xxl": shape(4096, 10240, 24, 64),
}
OTHERS = {
    "t5-base": COMMON | shape(768, 3072, 12, 12),
    "t5-large": COMMON | shape(1024, 4096, 24, 16),
    "t5-11b": COMMON | shape(1024, 65536, 24, 128) | {"d_kv": 128},
    "google/t5-efficient-tiny": COMMON | shape(256, 1024, 4, 4),
}


def abstract_lm(contents):
    config = T5Config.from_hf(contents)
    module = T5(config)
    return LanguageModel(module, abstract_params(module), None, config, "abstract", "t5")


# Lester et al. (2021), appendix, at 100 virtual tokens: the total, what of it trains, and its percentage.
@pytest.mark.parametrize(
    ("size", "total", "trainable", "percentage"),
    [
        ("small", 76_961_152 + 51_200, 51_200, "0.0665"),
        ("base", 247_577_856 + 76_800, 76_800, "0.0310"),
        ("large", 783_150_080 + 102_400, 102_400, "0.0131"),
        ("xl", 2_849_757_184 + 204_800, 204_800, "0.0072"),
        ("xxl", 11_135_332_352 + 409_600, 409_600, "0.0037"),
    ],
)
def test_counts_of_the_paper(size, total, trainable, percentage):
    lm = abstract_lm(COMMON | V1_1 | LM_ADAPTED[size])
    method = jp.PromptTuning(length=100, init="random")
    prompt = jax.eval_shape(lambda key: method.init_params(key, lm), jax.random.key(0))
    found = sum(leaf.size for leaf in jax.tree.leaves(prompt))
    assert (lm.num_params + found, found, f"{100 * found / (lm.num_params + found):.4f}") == (
        total, trainable, percentage
    )  # fmt: skip


# As their checkpoints on the hub hold them.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("t5-3b", 2_851_598_336),
        ("t5-11b", 11_307_321_344),
        ("google/t5-v1_1-small", 76_961_152),
        ("google/mt5-small", 300_176_768),
        ("google/byt5-small", 299_637_760),
        ("google/t5-efficient-tiny", 15_570_688),
    ],
)
def test_counts_of_published_checkpoints(name, count):
    assert abstract_lm((FILES | OTHERS)[name]).num_params == count


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"lacks \['d_kv', 'num_heads'\]"):
        T5Config.from_hf({key: value for key, value in FILES["t5-small"].items() if key not in ("d_kv", "num_heads")})
    with pytest.raises(ValueError, match=r"'gated-swish'.*known: .*gelu_new.*relu.*silu"):
        T5Config.from_hf(FILES["t5-small"] | {"feed_forward_proj": "gated-swish"})
