"""Corpora of one's own: which documents train and which validate, which piece of a long one is read, and streams."""

import json

import nano
import numpy as np
import pytest

from jaxprompt.data.corpus import hold_out, open_corpus, random_piece, reader
from jaxprompt.experiment import ConfigError, CorpusConfig
from jaxprompt.training import pretrain
from jaxprompt.training.pretrain import corpus_batches, corpus_stream, open_documents

COUNT, LENGTH = 24, 12
FIELDS = ("inputs", "input_segments", "targets", "target_segments", "target_weights", "index")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Documents of very different lengths, each of words with its own number."""
    root = tmp_path_factory.mktemp("corpus")
    rows = [{"text": f"document {number} : " + "the river is cold . " * (number % 6)} for number in range(COUNT)]
    for part in range(2):
        lines = [json.dumps(row) for row in rows[part::2]]
        (root / f"train-{part}.jsonl").write_text("\n".join(lines))
    (root / "dev.jsonl").write_text("\n".join(json.dumps({"text": f"other text {number} here"}) for number in range(9)))
    return root


def config(directory, **changes):
    values = {
        "objective": "prefix_lm", "source": f"jsonl:{directory}", "max_length": LENGTH, "documents_per_row": 2,
        "row_length": 20, "row_targets": 16, "validation_documents": 4,
    }  # fmt: skip
    return CorpusConfig(**(values | changes))


def bits(batch):
    return [np.asarray(getattr(batch, name)).tobytes() for name in FIELDS]


def batches(corpus, count, *, seed=0, documents=None):
    stream = corpus_stream(nano.language_model(), corpus, 4, seed, documents)
    try:
        return [next(stream) for _ in range(count)]
    finally:
        stream.close()


@pytest.mark.parametrize(("count", "size"), [(5, 5), (4, 10), (3, 11), (1, 2), (0, 3)])
def test_held_out_texts_are_spread_and_nowhere_else(count, size):
    texts = [str(number) for number in range(size)]
    if size < 2 * count:
        with pytest.raises(ValueError, match=r"the corpus has 5 documents, of which corpus.validation_documents=5"):
            hold_out(texts, count)
        return
    train, validation = hold_out(texts, count)
    assert (len(train), len(validation)) == (size - count, count)
    assert sorted([*train, *validation], key=int) == texts
    assert list(validation) == [str(number * size // count) for number in range(count)]
    assert list(train) == sorted(train, key=int)
    assert list(hold_out(texts, count, spread=False)[1]) == texts[:count]


def test_splits_of_a_corpus(directory):
    source = f"jsonl:{directory}"
    one = open_corpus(source, train_split="train", validation_split="dev", validation_documents=5)
    assert (len(one.train), len(one.validation), one.window) == (COUNT, 5, 0)
    assert one.validation[4] == "other text 4 here"
    held = open_corpus(source, validation_documents=6, max_documents=10)
    assert (len(held.train), len(held.validation)) == (10, 6)
    assert not set(held.train) & set(held.validation)
    with pytest.raises(IndexError):
        held.train[10]


def test_every_piece_of_a_sequence_is_read_as_often():
    tokens = np.arange(21)  # cut into 0-4, 5-9, 10-14, 15-19; nothing can be made of the last one alone
    rng = np.random.default_rng(0)
    starts = [int(random_piece(tokens, rng, 5)[0]) for _ in range(4000)]
    assert set(starts) == {0, 5, 10, 15}
    assert min(starts.count(start) for start in set(starts)) > 900
    assert {len(random_piece(tokens[:18], rng, 5)) for _ in range(50)} == {5, 3}
    np.testing.assert_array_equal(random_piece(tokens[:5], rng, 5), tokens[:5])
    assert random_piece("abcdef", np.random.default_rng(1), 3) in ("abc", "def")


def test_a_huge_text_is_not_tokenised_whole():
    seen = []

    def tokenizer(text, **options):
        seen.append(text)
        return {"input_ids": list(range(3, 3 + len(text) // 1000))}

    text = "".join(chr(ord("a") + place // 2**16) for place in range(5 * 2**16 + 1000))
    read = reader(tokenizer, 200, 10)
    found = [read(text, np.random.default_rng(seed)) for seed in range(60)]
    assert {len(tokens) for tokens in found} <= {10, 5, 1}
    assert max(map(len, seen)) == 2**16
    assert {text[0] for text in seen} == set("abcdef")
    with pytest.raises(ValueError, match=r"gives id 67 in 'aa.*vocabulary has 50 rows"):
        reader(tokenizer, 50, 100)(text[: 2**16], np.random.default_rng(0))


def test_a_row_holds_whole_pieces_and_their_continuations(directory):
    lm, corpus = nano.language_model(), config(directory)
    eos, seen = lm.config.eos_token_id, set()
    for batch in batches(corpus, 12):
        assert batch.inputs.shape == (4, 20)
        assert batch.targets.shape == (4, 16)
        for row in range(4):
            for segment in range(1, batch.input_segments[row].max() + 1):
                read = batch.inputs[row][batch.input_segments[row] == segment]
                written = batch.targets[row][batch.target_segments[row] == segment]
                assert (read[-1], written[-1]) == (eos, eos)
                assert 2 <= len(read) + len(written) - 2 <= LENGTH
                text = lm.tokenizer.decode([*read[:-1], *written[:-1]])
                seen.add(int(text.split()[1]) if text.startswith("document") else "later piece")
    assert "later piece" in seen
    assert len(seen) > 15
    assert not seen & {0, 12, 1, 13}, "those that validate: every sixth, in the order of the files"


def test_a_stream_goes_on_where_it_was(directory):
    corpus = config(directory)
    whole = batches(corpus, 9)
    stream = corpus_stream(nano.language_model(), corpus, 4, 0)
    for _ in range(5):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    stream.close()
    stream = corpus_stream(nano.language_model(), corpus, 4, 0)
    stream.set_state(state)
    for batch in whole[5:]:
        assert bits(next(stream)) == bits(batch)
    stream.close()
    other = corpus_stream(nano.language_model(), config(directory, max_documents=12), 4, 0)
    with pytest.raises(ValueError, match="the saved data position is one of"):
        other.set_state(state)
    other.close()


@pytest.mark.parametrize("window", [0, 7])
def test_processes_share_what_one_would_read(directory, monkeypatch, window):
    lm, corpus = nano.language_model(), config(directory)
    documents = open_documents(lm, corpus, 0)
    documents = pretrain.Documents(documents.train, documents.validation, documents.tokens, window)
    whole = batches(corpus, 8, documents=documents)
    parts = []
    for index in range(2):
        monkeypatch.setattr(pretrain, "data_share", lambda mesh, index=index: (index, 2))
        parts.append(batches(corpus, 8, documents=documents))
    for all_rows, first, second in zip(whole, *parts, strict=True):
        for name in FIELDS:
            both = np.concatenate([getattr(first, name), getattr(second, name)])
            np.testing.assert_array_equal(both, getattr(all_rows, name))


def test_a_window_is_left_once_it_is_read(directory):
    lm = nano.language_model()
    documents = open_documents(lm, config(directory), 0)
    asked = []

    class Spied(list):
        def __getitem__(self, number):
            asked.append(number)
            return super().__getitem__(number)

    spied = pretrain.Documents(Spied(documents.train), documents.validation, documents.tokens, 8)
    stream = corpus_stream(lm, config(directory), 4, 0, spied)
    for _ in range(5):
        next(stream)
    stream.close()
    # 20 documents in groups of 2, 4 groups a window; the order within a window is not that of the corpus.
    assert sorted(asked[:8]) == list(range(8))
    assert sorted(asked[8:16]) == list(range(8, 16))
    assert sorted(asked[16:24]) == [0, 1, 2, 3, 16, 17, 18, 19], "an epoch's end lies within a window"
    assert asked[:20] != list(range(20))


def test_validation_is_fixed_and_one_document_a_row(directory):
    lm, corpus = nano.language_model(), config(directory, validation_split="dev", validation_documents=20)
    once, again = ([bits(batch) for batch in corpus_batches(lm, corpus, 4, 0)] for _ in range(2))
    assert once == again
    found = list(corpus_batches(lm, corpus, 4, 0))
    assert sum(int((batch.index >= 0).sum()) for batch in found) == 9
    assert all(batch.input_segments.max() == 1 for batch in found)


def test_texts_of_which_nothing_can_be_made(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ["", " ", ""] * 4))
    lm = nano.language_model()
    (batch,) = batches(config(tmp_path, validation_documents=1), 1)
    eos = lm.config.eos_token_id
    np.testing.assert_array_equal(batch.inputs[:, :2], [[eos, 0]] * 4)
    np.testing.assert_array_equal(batch.targets[:, :2], [[eos, 0]] * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "c4"}, r"corpus.source is 'c4'; write mini, text:DIR, jsonl:DIR or tfds:NAME"),
        ({"source": "csv:x"}, r"corpus.source is 'csv:x'"),
        ({"data_dir": "x"}, "TFDS's directory and means nothing"),
        ({"row_length": 11}, r"12 tokens make 12 ids of input and 12 of target by prefix_lm, which rows of .*=11"),
        ({"row_targets": 11}, "do not hold"),
        ({"objective": "span_corruption", "max_length": 24}, "24 tokens make 22 ids of input and 6 of target"),
        ({"max_documents": -1}, "max_documents is -1"),
        ({"documents_per_row": 0}, "documents_per_row is 0; it must be at least 1"),
        ({"export_steps": (0,)}, "steps count from 1"),
        ({"source": "mini", "validation_split": "dev"}, "corpus.validation_split means nothing for the embedded text"),
    ],
)
def test_settings_without_a_meaning(changes, message):
    with pytest.raises(ConfigError, match=message):
        config("x", **changes)


def test_as_long_as_a_row_holds():
    assert config("x", row_length=12, row_targets=12, max_targets=12).row_targets == 12
    assert config("x", max_targets=5, row_targets=5).row_targets == 5
    # What T5 fills its rows of 512 and 114 with.
    t5 = {"objective": "span_corruption", "row_length": 512, "row_targets": 114}
    assert config("x", max_length=568, **t5).max_length == 568
    with pytest.raises(ConfigError, match="do not hold"):
        config("x", max_length=569, **t5)
