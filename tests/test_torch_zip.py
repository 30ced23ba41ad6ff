import io
import json
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest
import t5_files

from jaxprompt.models.load import load_model
from jaxprompt.models.torch_zip import TorchZip
from jaxprompt.models.weight_source import CheckpointError, TensorInfo


def whole(source, name):
    return source.read(name, tuple(slice(0, size) for size in source.tensors[name].shape))


# torch is the reference for its own files.


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"])
def test_values_of_every_dtype(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    tensor = (torch.arange(24).reshape(4, 6) - 7).to(getattr(torch, dtype))
    torch.save({"a": tensor}, tmp_path / "x.bin")
    source = TorchZip(tmp_path / "x.bin")
    assert source.tensors == {"a": TensorInfo((4, 6), dtype)}
    np.testing.assert_array_equal(whole(source, "a").astype(np.float64), tensor.double().numpy())


def test_views_parameters_shared_storages_and_slices(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = torch.nn.Module().state_dict()  # an OrderedDict with an attribute of its own
    state |= {
        "whole": base,
        "transposed": base.transpose(0, 2),
        "offset": base[1:, 1:, ::2],
        "expanded": base[0, 0].expand(7, 5),
        "parameter": torch.nn.Parameter(base[2]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "strange name/with.dots": base.flatten(),
    }
    torch.save(state, tmp_path / "x.bin")
    source = TorchZip(tmp_path / "x.bin")
    assert source.tensors.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(whole(source, name), tensor.detach().numpy(), err_msg=name)
    some = source.read("transposed", (slice(1, 3), slice(0, 4), slice(2, 3)))
    np.testing.assert_array_equal(some, base.transpose(0, 2)[1:3, 0:4, 2:3].numpy())
    with pytest.raises(ValueError, match="read-only"):
        source.read("whole", (slice(0, 1),))[...] = 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_a_transformers_state_dict_loads_like_its_safetensors(tmp_path, tied, sharded):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = t5_files.TIED if tied else t5_files.CONFIG
    reference = t5_files.write(tmp_path / "safetensors", config)
    model = transformers.T5ForConditionalGeneration.from_pretrained(reference)
    state = model.state_dict()
    assert {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"} <= state.keys()
    directory = tmp_path / "torch"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    if sharded:
        names, files = sorted(state), ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        weight_map = {name: files[number % 2] for number, name in enumerate(names)}
        for file in files:
            torch.save({name: state[name] for name in names if weight_map[name] == file}, directory / file)
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        torch.save(state, directory / "pytorch_model.bin")
    ours, expected = load_model(directory, tokenizer=False), load_model(reference, tokenizer=False)
    assert ours.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, ours.params, expected.params)


def test_the_older_format_is_refused_with_the_way_out(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"x\.bin is in torch's older format.*torch\.save\(torch\.load"):
        TorchZip(tmp_path / "x.bin")


def test_a_whole_model_is_refused_by_the_name_it_asks_for(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        TorchZip(tmp_path / "x.bin")


# What follows needs no torch: archives written by hand.


class Global:
    """Pickles as the name of a function or class, called with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_zip(path, pickled, data=None, compression=zipfile.ZIP_STORED, byte_order=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", byte_order)
        for key, value in (data or {}).items():
            archive.writestr(f"model/data/{key}", value)
    return path


def tensor_pickle(offset=0, shape=(2, 3), strides=(3, 1), size=6, storage=b"FloatStorage", key="0"):
    """A dict {"a": tensor}, in the opcodes that torch writes."""

    def integers(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    name = key.encode()
    storage_id = b"(V" + b"storage\n" + b"ctorch\n" + storage + b"\nV" + name + b"\nVcpu\n" + b"I%d\ntQ" % size
    arguments = b"(" + storage_id + b"I%d\n" % offset + integers(shape) + integers(strides) + b"I00\n"
    return b"\x80\x02}Va\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"ccollections\nOrderedDict\n)RtRs."


SIX = np.arange(6, dtype="<f4").tobytes()


def test_a_tensor_written_by_hand(tmp_path):
    source = TorchZip(write_zip(tmp_path / "x.bin", tensor_pickle(), {"0": SIX}))
    np.testing.assert_array_equal(whole(source, "a"), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("how", ["reduce", "inst", "stack_global", "newobj", "inside_tensor", "build"])
def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch, how):
    made = tmp_path / "executed"
    command = f"touch {made}"
    pickled = {
        "reduce": pickle.dumps({"a": Global(os.system, command)}, protocol=2),
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "stack_global": pickle.dumps({"a": Global(os.system, command)}, protocol=4),
        "newobj": b"\x80\x02csubprocess\nPopen\n(V" + command.encode() + b"\nt\x81.",
        "inside_tensor": b"\x80\x02ctorch._utils\n_rebuild_parameter\n(cbuiltins\neval\n(V1\ntRtR.",
        # Turns the object that an allowed name gives into one that would run code, then asks for the code.
        "build": b"\x80\x02ccollections\nOrderedDict\n)R}V__setstate__\ncposix\nsystem\nsbV"
        + command.encode()
        + b"\nb.",
    }[how]
    path = write_zip(tmp_path / "x.bin", pickled)
    with pytest.raises(CheckpointError, match=r"asks for (posix|os|nt|subprocess|builtins)\.\w+.* it was not run"):
        TorchZip(path)
    assert not made.exists()
    # The payload is a live one: the stock unpickler would have run it.
    if how in ("reduce", "inst", "stack_global"):
        pickle.load(io.BytesIO(pickled))
        assert made.exists()


def test_allowed_names_are_not_torchs_own_and_cannot_be_spoilt_for_the_next_file(tmp_path):
    # BUILD may set attributes of a stand-in; the next file gets a fresh one.
    spoilt = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}V__defaults__\n(I1\ntsb0" + tensor_pickle()[2:]
    for pickled in (spoilt, tensor_pickle()):
        source = TorchZip(write_zip(tmp_path / "x.bin", pickled, {"0": SIX}))
        np.testing.assert_array_equal(whole(source, "a"), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": 1}, "reaches beyond"),
        ({"strides": (30, 1)}, "reaches beyond"),
        ({"size": 7, "shape": (7,), "strides": (1,)}, "reaches beyond"),
        ({"offset": -1}, "not a tensor"),
        ({"strides": (-3, 1)}, "not a tensor"),
        ({"strides": (1,)}, "not a tensor"),
        ({"key": "../../0"}, "holds no data for a"),
        ({"storage": b"ComplexFloatStorage"}, r"asks for torch\.ComplexFloatStorage"),
    ],
)
def test_tensors_that_point_outside_of_their_file(tmp_path, arguments, message):
    with pytest.raises(CheckpointError, match=message):
        TorchZip(write_zip(tmp_path / "x.bin", tensor_pickle(**arguments), {"0": SIX}))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "is not a file that torch.save wrote"),
        (lambda p: p.write_bytes(b"<html>"), "is not a file that torch.save wrote"),
        (lambda p: write_zip(p, b"\x80\x02}"), "damaged pickle"),
        (lambda p: write_zip(p, pickle.dumps([1], 2)), "one flat dict of tensors"),
        (lambda p: write_zip(p, pickle.dumps({"step": 3}, 2)), "one flat dict of tensors.*'step': 'int'"),
        (lambda p: write_zip(p, tensor_pickle()), "holds no data for a"),
        (lambda p: write_zip(p, tensor_pickle(), {"0": SIX}, byte_order=b"big"), "big-endian"),
        (lambda p: write_zip(p, tensor_pickle(), {"0": SIX}, zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda p: zipfile.ZipFile(p, "w").close(), "zip archive without data.pkl"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, write, message):
    path = tmp_path / "x.bin"
    write(path)
    with pytest.raises(CheckpointError, match=message):
        TorchZip(path)


def test_a_file_cut_short(tmp_path):
    path = write_zip(tmp_path / "x.bin", tensor_pickle(), {"0": SIX})
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 10):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            TorchZip(path)
