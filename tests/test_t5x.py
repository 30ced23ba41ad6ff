import json
import os
import shutil

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
import t5_files
import tensorstore as ts

from jaxprompt.models.load import load_model
from jaxprompt.models.t5x import T5XCheckpoint, kvstore
from jaxprompt.models.weight_source import CheckpointError


def t5x_name(name):
    """Flaxformer's name of a Hugging Face tensor, and whether the matrix is transposed."""
    if name in ("shared.weight", "lm_head.weight"):
        return ("token_embedder.embedding", False) if name[0] == "s" else ("decoder.logits_dense.kernel", True)
    stack, *rest = name.removesuffix(".weight").split(".")
    if rest == ["final_layer_norm"]:
        return f"{stack}.{stack}_norm.scale", False
    if rest[-1] == "relative_attention_bias":
        return f"{stack}.relpos_bias.rel_embedding", True
    _, block, _, layer, *what = rest
    kind = {
        "encoder": ["attention", "mlp"],
        "decoder": ["self_attention", "encoder_decoder_attention", "mlp"],
    }[stack][int(layer)]
    if what == ["layer_norm"]:
        norm = {"encoder_decoder_attention": "cross_attention"}.get(kind, kind)
        return f"{stack}.layers_{block}.pre_{norm}_layer_norm.scale", False
    word = {"q": "query", "k": "key", "v": "value", "o": "out"}.get(what[1], what[1])
    return f"{stack}.layers_{block}.{kind}.{word}.kernel", True


def test_addresses_on_disk_and_in_a_bucket():
    assert kvstore("gs://bucket/run/checkpoint_7", "checkpoint") == {
        "driver": "gcs",
        "bucket": "bucket",
        "path": "run/checkpoint_7/checkpoint",
    }
    assert kvstore("/data/a b%/checkpoint_7", "x/") == {"driver": "file", "path": "/data/a b%/checkpoint_7/x/"}


def write(directory, config, *, dtype="<f4", placeholders=False, inline=False):
    """A checkpoint as T5X writes it: small arrays in the state file, matrices in chunked zarr directories."""
    directory.mkdir()
    target = {}
    for name, array in t5_files.tensors(config).items():
        theirs, transposed = t5x_name(name)
        array = array.T if transposed else array
        node = target
        *parents, last = theirs.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        if array.ndim == 1 or "relpos" in theirs or inline:
            node[last] = np.ascontiguousarray(array)
            continue
        metadata = {
            "shape": list(array.shape),
            "chunks": [-(-array.shape[0] // 2), array.shape[1]],
            "dtype": dtype,
            "compressor": {"id": "gzip", "level": 1},
        }
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{directory}/target.{theirs}/"}}
        store = ts.open(spec | {"metadata": metadata}, create=True).result()
        store.write(array.astype(store.dtype.numpy_dtype)).result()
        # The address is that of the machine which wrote the checkpoint.
        kvstore = {"driver": "gcs", "bucket": "elsewhere", "path": f"run/checkpoint_7/target.{theirs}"}
        described = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
        node[last] = f"PLACEHOLDER://target.{theirs}" if placeholders else described
    moments = {"token_embedder": {"embedding": {"m": np.zeros(1, np.float32)}}}
    state = {"version": 3, "optimizer": {"target": target, "state": {"step": 7, "param_states": moments}}}
    (directory / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    return directory


@pytest.mark.parametrize("how", [{}, {"placeholders": True}, {"inline": True}], ids=["specs", "placeholders", "inline"])
@pytest.mark.parametrize("config", [t5_files.CONFIG, t5_files.TIED], ids=["untied", "tied"])
def test_a_checkpoint_loads_like_its_hugging_face_twin(tmp_path, config, how):
    expected = load_model(t5_files.write(tmp_path / "hf", config), tokenizer=False)
    lm = load_model(
        write(tmp_path / "checkpoint_7", config, **how),
        tokenizer=False,
        config={"relative_attention_max_distance": 20},
    )
    # Everything else was told by the shapes.
    assert lm.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, lm.params, expected.params)


def test_bfloat16_and_a_config_in_the_directory(tmp_path):
    directory = write(tmp_path / "bfloat16 100%", t5_files.CONFIG, dtype="bfloat16")
    (directory / "config.json").write_text(json.dumps({"relative_attention_max_distance": 20}))
    lm = load_model(directory, tokenizer=False)
    assert lm.config.relative_attention_max_distance == 20
    stored = t5_files.tensors(t5_files.CONFIG)["shared.weight"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(lm.params["shared"]["embedding"], stored.astype(np.float32))


def test_only_the_chunks_that_are_needed_are_read(tmp_path):
    directory = write(tmp_path / "checkpoint_7", t5_files.CONFIG)
    os.remove(directory / "target.token_embedder.embedding" / "1.0")
    source = T5XCheckpoint(str(directory))
    first = source.read("token_embedder.embedding", (slice(3, 25), slice(0, 16)))
    np.testing.assert_array_equal(first, t5_files.tensors(t5_files.CONFIG)["shared.weight"][3:25])
    with pytest.raises(CheckpointError, match=r"token_embedder\.embedding is not all there.*copy the checkpoint again"):
        source.read("token_embedder.embedding", (slice(3, 26), slice(0, 16)))


def test_damaged_checkpoints(tmp_path):
    directory = write(tmp_path / "checkpoint_7", t5_files.CONFIG)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_model(directory)
    shutil.rmtree(directory / "target.encoder.layers_0.mlp.wo.kernel")
    with pytest.raises(CheckpointError, match=r"refers to target\.encoder\.layers_0\.mlp\.wo\.kernel, which cannot"):
        load_model(directory, tokenizer=False)
    (directory / "checkpoint").write_bytes(b'model_checkpoint_path: "model.ckpt-1000000"')
    with pytest.raises(CheckpointError, match=r"is not the state of a T5X checkpoint.*Mesh TensorFlow"):
        load_model(directory, tokenizer=False)
    (directory / "checkpoint").write_bytes(flax.serialization.msgpack_serialize({"params": {"a": np.zeros(2)}}))
    with pytest.raises(CheckpointError, match=r"should hold optimizer/target or target, but holds \['params'\]"):
        load_model(directory, tokenizer=False)
    state = {"target": {"encoder": {"prompt": np.zeros(2)}}}
    (directory / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    with pytest.raises(CheckpointError, match=r"does not hold a T5 as T5X names it.*encoder\.prompt"):
        load_model(directory, tokenizer=False)
    with pytest.raises(CheckpointError, match="holds no file 'checkpoint'"):
        T5XCheckpoint(str(tmp_path))


def test_a_prompted_checkpoint_is_no_bare_model(tmp_path):
    directory = write(tmp_path / "checkpoint_7", t5_files.CONFIG, inline=True)
    state = flax.serialization.msgpack_restore((directory / "checkpoint").read_bytes())
    state["optimizer"]["target"]["encoder"]["prompt"] = {"prompt": np.zeros((5, 16), np.float32)}
    (directory / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    with pytest.raises(CheckpointError, match=r"unknown: encoder\.prompt\.prompt \[5, 16\]"):
        load_model(directory, tokenizer=False)
