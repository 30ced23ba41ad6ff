"""SQuAD's and MRQA's own files, and TFDS's builders run on them."""

import gzip
import json
import re

import pytest

from jaxprompt.data import mrqa, squad, tfds_source
from jaxprompt.data.tasks import FORMATS, load_task

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": "Ada (1815) wrote.",
                    "qas": [
                        {"id": "a", "question": "Who wrote?", "answers": [{"text": "Ada", "answer_start": 0}]},
                        {
                            "id": "b",
                            "question": "When?",
                            "answers": [{"text": text, "answer_start": 4} for text in ("(1815)", "1815")],
                        },
                    ],
                }
            ],
        },
        {"title": "Bo", "paragraphs": [{"context": "Bo.", "qas": [{"id": "c", "question": "Who?", "answers": []}]}]},
    ],
}
QUESTION = {
    "qid": "1",
    "question": "Which\u00a0gene?",
    "question_tokens": [["Which", 0], ["gene", 6], ["?", 10]],
    "detected_answers": [{"text": "BRCA-1", "char_spans": [[6, 11]], "token_spans": [[1, 1]]}],
    "answers": ["brca1", "BRCA-1"],
}
MRQA = [
    {"header": {"dataset": "BioASQ", "mrqa_split": "dev"}},
    {"context": "[PAR] BRCA-1\n.", "context_tokens": [["[PAR]", 0]], "qas": [QUESTION, {**QUESTION, "qid": "2"}]},
    {"context": "None.", "context_tokens": [["None", 0]], "qas": [{**QUESTION, "qid": "3"}]},
]
LINES = "".join(json.dumps(row) + "\n" for row in MRQA)


def write_mrqa(path):
    path.write_bytes(gzip.compress(LINES.encode()) if path.suffix == ".gz" else LINES.encode())


def test_squads_own_files(tmp_path):
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (tmp_path / name).write_text(json.dumps(SQUAD))
    task = load_task(None, f"json:{tmp_path}")
    assert task.format is FORMATS["squad"]
    assert set(task.splits) == {"train", "validation"}
    who, when, withheld = task.examples("validation")
    assert who.fields == {"question": "Who wrote ?", "context": "Ada ( 1815 ) wrote . "}
    assert (who.target, who.references) == ("Ada", ())
    assert (when.target, when.references) == (" ( 1815 ) ", (" ( 1815 ) ", "1815"))
    assert (withheld.target, withheld.references) == ("", ())


def test_hugging_faces_lines_are_read_alike(tmp_path):
    row = {"id": "b", "title": "Ada", "context": "Ada (1815) wrote.", "question": "When?"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row | {"answers": {"text": ["1815"], "answer_start": [5]}}))
    (example,) = load_task(None, f"jsonl:{tmp_path}").examples("train")
    assert example == squad.question_example("When?", "Ada (1815) wrote.", ["1815"])


@pytest.mark.parametrize("name", mrqa.SETS)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_mrqas_files_are_found_by_the_name_of_the_task(tmp_path, name, ending):
    write_mrqa(tmp_path / (mrqa.SETS[name][1][-1] + ending))
    task = load_task(name, f"mrqa:{tmp_path}")
    assert (task.format, task.splits) == (FORMATS[name], ("test",))
    examples = task.examples("test")
    assert len(examples) == 3
    assert examples[0].fields == {"question": "Which gene ?", "context": "[ PAR ] BRCA - 1 . "}
    assert (examples[0].target, examples[0].references) == ("BRCA - 1", ("brca1", "BRCA - 1"))


def test_mrqas_files_that_are_not_there_or_not_mrqas(tmp_path):
    with pytest.raises(ValueError, match=r"mrqa_bioasq.*name one of them, not None"):
        load_task(None, f"mrqa:{tmp_path}")
    with pytest.raises(ValueError, match="not 'squad'"):
        load_task("squad", f"mrqa:{tmp_path}")
    write_mrqa(tmp_path / "DROP.jsonl.gz")
    with pytest.raises(FileNotFoundError, match=r"none of \['RACE.jsonl.gz', 'RACE.jsonl'\].*DROP.jsonl.gz"):
        load_task("mrqa_race", f"mrqa:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        load_task("mrqa_race", f"mrqa:{tmp_path / 'nowhere'}")
    (tmp_path / "RACE.jsonl").write_text(LINES.partition("\n")[2])
    with pytest.raises(ValueError, match=r"RACE.jsonl: expected MRQA's header"):
        load_task("mrqa_race", f"mrqa:{tmp_path}").examples("test")
    (tmp_path / "RACE.jsonl").write_text(LINES + "{")
    with pytest.raises(ValueError, match=r"RACE.jsonl, line 4: not one of MRQA's JSON lines"):
        load_task("mrqa_race", f"mrqa:{tmp_path}").examples("test")
    (tmp_path / "RACE.jsonl.gz").write_text(LINES)
    with pytest.raises(ValueError, match=r"RACE.jsonl.gz, line 1: .*gzip"):
        load_task("mrqa_race", f"mrqa:{tmp_path}").examples("test")
    (tmp_path / "TextbookQA.jsonl").write_text(LINES.replace('"question":', '"asked":'))
    with pytest.raises(ValueError, match=r"TextbookQA.jsonl, line 2 is no example of 'mrqa_textbookqa': no field 'q"):
        load_task("mrqa_textbookqa", f"mrqa:{tmp_path}").examples("test")


def test_tfds_builders_give_the_same(tmp_path, monkeypatch):
    tfds = tfds_source._import_tfds()
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(SQUAD))
    write_mrqa(tmp_path / "BioASQ.jsonl")

    def download(_manager, urls):
        file = "dev-v1.1.json" if any("squad" in url.lower() for url in urls.values()) else "BioASQ.jsonl"
        return {split: str(tmp_path / file) for split in urls}

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
    monkeypatch.setattr("tensorflow_datasets.core.utils.gcs_utils._is_gcs_disabled", True)
    by_text = lambda examples: sorted(examples, key=lambda one: sorted(one.fields.items()))  # noqa: E731
    for name, source, split in (
        ("squad", f"json:{tmp_path}", "validation"),
        ("mrqa_bioasq", f"mrqa:{tmp_path}", "test"),
    ):
        task = load_task(name, data_dir=tmp_path / "prepared")
        assert task.source == f"tfds:{(squad.TFDS | mrqa.TFDS)[name]}"
        examples = by_text(task.examples(split))
        assert examples == by_text(load_task(name, source).examples(split))
        assert load_task(source=task.source, data_dir=tmp_path / "prepared").format is FORMATS[name]


def test_all_ascii_punctuation_is_padded():
    marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert squad.pad_punctuation(marks) == " " + " ".join(marks) + " "
    assert re.sub(r"\s", "", squad.pad_punctuation(f"a{marks}b")) == f"a{marks}b"
