"""Documents in files, found by where they begin: what is read back is what was written."""

import json

import pytest

from jaxprompt.data import corpus_files
from jaxprompt.data.corpus_files import open_files

TEXTS = ["A first line.\nAnd a second.", "Größe, naïve ☃", "x", "The last one.\n\tIndented."]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "between", ["\n\n", "\n\n\n\n", "\r\n\r\n", "\n  \t\n"], ids=["one", "several", "CRLF", "spaces"]
)
@pytest.mark.parametrize(
    ("before", "behind"), [("", ""), ("\ufeff", "\n"), ("\n \n", "\n\n\n")], ids=["bare", "BOM", "blank ends"]
)
def test_blank_lines_separate_texts(tmp_path, between, before, behind):
    write(tmp_path / "a.txt", before + between.join(TEXTS) + behind)
    assert list(open_files("text", str(tmp_path), "train")) == TEXTS


def test_json_lines_of_either_name(tmp_path):
    rows = [{"text": text, "url": "…"} for text in TEXTS]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows[:2]) + "\n\n")
    write(tmp_path / "b.json", "\ufeff\n" + json.dumps(rows[2], ensure_ascii=False) + "\r\n" + json.dumps(rows[3]))
    documents = open_files("jsonl", str(tmp_path), "train")
    assert [documents[number] for number in (3, 0, 2, 1)] == [TEXTS[number] for number in (3, 0, 2, 1)]
    assert documents[-1] == TEXTS[-1]
    with pytest.raises(IndexError):
        documents[4]
    assert open_files("jsonl", str(tmp_path), "train", field="url")[1] == "…"


def test_files_follow_one_another_and_empty_ones_do_not_count(tmp_path):
    for name, texts in (("2.txt", TEXTS[2:]), ("1.txt", TEXTS[:2]), ("deep/er/3.txt", ["z"]), ("0.txt", [])):
        write(tmp_path / name, "\n\n".join(texts))
    write(tmp_path / "11.txt", "\n \n")
    assert list(open_files("text", str(tmp_path), "")) == [*TEXTS, "z"]


def test_a_split_is_a_word_of_the_name(tmp_path):
    for name in ("c4-train.00000-of-00002.txt", "c4-train.00001-of-00002.txt", "c4-validation.00000-of-00001.txt",
                 "training.txt"):  # fmt: skip
        write(tmp_path / "named" / name, name)
    named = str(tmp_path / "named")
    assert [text[3:14] for text in open_files("text", named, "train", ["validation"])] == ["train.00000", "train.00001"]
    assert list(open_files("text", named, "validation", ["train"])) == ["c4-validation.00000-of-00001.txt"]
    for name in ("books.txt", "letters.txt", "validation/more.txt"):
        write(tmp_path / "unnamed" / name, name)
    unnamed = str(tmp_path / "unnamed")
    assert list(open_files("text", unnamed, "train", ["validation"])) == ["books.txt", "letters.txt"]
    assert list(open_files("text", unnamed, "train")) == ["books.txt", "letters.txt", "validation/more.txt"]
    assert list(open_files("text", unnamed, "validation", ["train"])) == ["validation/more.txt"]


def test_a_long_text_is_cut_at_white_space(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "LONGEST_TEXT", 64)
    lines = [f"line {number} has a few words" for number in range(40)]
    words = " ".join(f"word{number}" for number in range(60))
    write(tmp_path / "a.txt", "\n\n".join(["short", "\n".join(lines), words, "é" * 100, "end"]))
    documents = list(open_files("text", str(tmp_path), "train"))
    assert max(len(text.encode()) for text in documents) <= 64
    assert documents[0] == "short"
    assert documents[-1] == "end"
    cut = [text for text in documents if text.startswith("line")]
    assert len(cut) > 10
    assert "\n".join(cut) == "\n".join(lines)
    assert " ".join(text for text in documents if text.startswith("word")) == words
    assert "".join(text for text in documents if text.startswith("é")) == "é" * 100


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        open_files("text", str(tmp_path / "none"), "train")
    write(tmp_path / "packed/c4-train.json.gz", b"\x1f\x8b")
    with pytest.raises(FileNotFoundError, match=r"no \*.jsonl or \*.json of 'train' in .*unpack compressed"):
        open_files("jsonl", str(tmp_path / "packed"), "train")
    write(tmp_path / "only/train.txt", "a")
    with pytest.raises(FileNotFoundError, match=r"no \*.txt of 'validation' in .*'train.txt'"):
        open_files("text", str(tmp_path / "only"), "validation", ["train"])
    write(tmp_path / "latin/a.txt", "über ".encode() * 2 + "über".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8 \(invalid start byte at byte 12\)"):
        open_files("text", str(tmp_path / "latin"), "train")
    write(tmp_path / "blank/a.txt", " \n\n")
    with pytest.raises(ValueError, match="hold no document"):
        open_files("text", str(tmp_path / "blank"), "train")
    write(tmp_path / "bad/a.jsonl", '{"text": "a"}\n{"text": 3}\n{"text": "b"\n')
    documents = open_files("jsonl", str(tmp_path / "bad"), "train")
    with pytest.raises(ValueError, match=r"a.jsonl, at byte 14: expected a JSON object with text in 'text'"):
        documents[1]
    with pytest.raises(ValueError, match=r"a.jsonl, at byte 26: not a line of JSON"):
        documents[2]


def test_a_character_across_blocks_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "_BLOCK", 3)
    write(tmp_path / "good/a.txt", "aa☃☃")
    assert list(open_files("text", str(tmp_path / "good"), "train")) == ["aa☃☃"]
    write(tmp_path / "bad/a.txt", b"aa\xe2\x98")
    with pytest.raises(ValueError, match="unexpected end of data at byte 2"):
        open_files("text", str(tmp_path / "bad"), "train")
