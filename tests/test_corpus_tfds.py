"""Corpora of the TFDS catalogue, in either format of its files."""

import numpy as np
import pytest

from jaxprompt.data import tfds_source
from jaxprompt.data.corpus import open_corpus
from jaxprompt.data.tfds_source import open_rows

TEXTS = [f"text number {number}" for number in range(50)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """{file format: a data_dir that holds `little/en:1.0.0` of three files}."""
    tfds = tfds_source._import_tfds()
    directories = {}
    for file_format in ("array_record", "tfrecord"):
        directories[file_format] = str(tmp_path_factory.mktemp(file_format))
        tfds.dataset_builders.store_as_tfds_dataset(
            name="little",
            config="en",
            version="1.0.0",
            data_dir=directories[file_format],
            split_datasets={
                "train": [(number, {"text": text, "url": "x"}) for number, text in enumerate(TEXTS)],
                "validation": [(number, {"text": f"other {number}", "url": "x"}) for number in range(5)],
            },
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "url": tfds.features.Text()}),
            download_config=tfds.download.DownloadConfig(num_shards=3),
            file_format=file_format,
            disable_shuffling=True,
        )
    return directories


def test_both_formats_hold_the_same(prepared):
    found = {}
    for file_format, data_dir in prepared.items():
        corpus = open_corpus(
            "tfds:little/en:1.0.0", validation_split="validation", validation_documents=4, data_dir=data_dir
        )
        assert len(corpus.train) == len(TEXTS)
        assert sorted(corpus.train) == sorted(TEXTS)
        assert len(corpus.validation) == 4
        found[file_format] = ([*corpus.train], [*corpus.validation])
        assert bool(corpus.window) == (file_format == "tfrecord")
    assert found["array_record"] == found["tfrecord"]


def test_what_is_read_in_order_is_read_by_windows(prepared, monkeypatch):
    reads = []
    whole = tfds_source._in_order

    def spied(tfds, builder, part):
        reads.append(str(part))
        return whole(tfds, builder, part)

    monkeypatch.setattr(tfds_source, "_in_order", spied)
    rows, window = open_rows("little/en", "train", prepared["tfrecord"], window=12)
    assert (window, len(rows)) == (12, 50)
    order = [place for start in range(0, 50, 12) for place in np.random.default_rng(start).permutation(12) + start]
    texts = {int(place): rows[int(place)]["text"] for place in order if place < 50}
    assert len(reads) == 5, "each once, the last a short one"
    assert sorted(texts.values()) == sorted(TEXTS)
    one_by_one, _ = open_rows("little/en", "train", prepared["array_record"])
    assert texts == {place: one_by_one[place]["text"] for place in range(50)}
    rows[0]
    assert len(reads) == 6, "only the newest are kept"
    # Those held out must not make it read all over the corpus.
    reads.clear()
    monkeypatch.setattr(tfds_source.open_rows, "__kwdefaults__", {"window": 12})
    corpus = open_corpus("tfds:little/en", validation_documents=5, data_dir=prepared["tfrecord"])
    assert len({*corpus.validation, *corpus.train}) == 50
    _ = [*corpus.validation]
    assert corpus.validation[4] == one_by_one[4]["text"]


def test_what_is_not_there_is_said(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"tfds:little/en has no split 'test'; it has \['train', 'validation'\]"):
        open_corpus("tfds:little/en", train_split="test", validation_documents=1, data_dir=prepared["tfrecord"])
    corpus = open_corpus("tfds:little/en", field="body", validation_documents=1, data_dir=prepared["array_record"])
    with pytest.raises(ValueError, match=r"record 1 of tfds:little/en, split 'train' has no text 'body'.*corpus.field"):
        corpus.train[0]
    for name, said in (("c4/en:2.3.1", "tfds build c4/en:2.3.1"), ("c4/en:3.0.1", "cannot be loaded at version 3.0.1")):
        with pytest.raises(RuntimeError, match=rf"'{name}' is not prepared in .*{said}"):
            open_corpus(f"tfds:{name}", validation_documents=1, data_dir=str(tmp_path))
