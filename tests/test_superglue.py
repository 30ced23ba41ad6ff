"""GLUE and SuperGLUE formats, and TFDS's own builder run on files of the published layout."""

import json
import os

import pytest
from superglue_release import PUBLISHED, without_answers

from jaxprompt.data import tfds_source
from jaxprompt.data.superglue import TFDS
from jaxprompt.data.tasks import FORMATS, load_task
from jaxprompt.data.template import Template


@pytest.mark.parametrize(
    ("name", "record", "text", "target"),
    [
        ("rte", PUBLISHED["rte"][1][1], "hypothesis: It was dry. premise: It rained.", "not_entailment"),
        ("cb", PUBLISHED["cb"][1][0], "hypothesis: so premise: A: I think so.", "neutral"),
        ("boolq", PUBLISHED["boolq"][1][0], "passage: It -- It is so. question: is it so", "True"),
        ("mrpc", {"sentence1": "A.", "sentence2": "B.", "label": 1}, "sentence1: A. sentence2: B.", "equivalent"),
        (
            "mrpc",
            {"#1 String": "A.", "#2 String": "B.", "Quality": "0"},
            "sentence1: A. sentence2: B.",
            "not_equivalent",
        ),
        ("rte", {"sentence1": "P", "sentence2": "H", "label": 0}, "hypothesis: H premise: P", "entailment"),
    ],
)
def test_text_is_t5s(name, record, text, target):
    (example,) = FORMATS[name].parse(record)
    (run,) = Template.parse(FORMATS[name].input).parts
    assert run.render(example.fields) == text
    assert example.target == target


@pytest.mark.parametrize("label", [-1, None, "", "-1"])
def test_withheld_labels_give_no_target(label):
    (example,) = FORMATS["cb"].parse({"premise": "p", "hypothesis": "h", "label": label})
    assert example.target == ""
    (example,) = FORMATS["cb"].parse({"premise": "p", "hypothesis": "h"})
    assert example.target == ""


@pytest.mark.parametrize("label", [3, -2, "maybe", True, 0.5, "3"])
def test_labels_outside_the_set(label):
    with pytest.raises(ValueError, match=r"none of \['entailment', 'contradiction', 'neutral'\]"):
        list(FORMATS["cb"].parse({"premise": "p", "hypothesis": "h", "label": label}))


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.labels])
def test_hard_prompts_ask_in_words_and_name_every_label(name):
    template = Template.parse(FORMATS[name].hard_prompt)
    assert set(template.fields) == set(Template.parse(FORMATS[name].input).fields)
    assert template.num_slots == 0
    assert all(label in FORMATS[name].hard_prompt for label in FORMATS[name].labels)


@pytest.mark.parametrize("name", ["record", "wsc", "squad", "mrqa_drop"])
def test_hard_prompts_of_free_text_name_fields(name):
    template = Template.parse(FORMATS[name].hard_prompt)
    record = {"answers": {"text": ["a"]}} if name == "squad" else {"answers": ["a"], "idx": {"passage": 0, "query": 0}}
    record |= {"question": "q", "context": "c", "passage": "p", "query": "@placeholder", "entities": ["a"]}
    record |= {"text": "a saw it .", "span1_text": "a", "span1_index": 0, "span2_text": "it", "span2_index": 2}
    (example,) = FORMATS[name].parse(record)
    template.check(num_slots=0, fields=tuple(example.fields))
    assert FORMATS[name].max_target_length == 62


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """Runs TFDS's `super_glue` builder, all of it but the download, on a release of a few lines."""
    tfds = tfds_source._import_tfds()
    release = tmp_path_factory.mktemp("release")
    for name, lines in PUBLISHED.values():
        (release / name).mkdir()
        for split in ("train", "val", "test"):
            rows = lines if split != "test" else without_answers(lines)
            (release / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def download(_manager, url):
        assert os.path.basename(url).removesuffix(".zip") in os.listdir(release)
        return str(release)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", download)
        patch.setattr("tensorflow_datasets.core.utils.gcs_utils._is_gcs_disabled", True)

        def run(name, data_dir, file_format):
            builder = tfds.builder(TFDS[name], data_dir=data_dir, file_format=file_format)
            builder.download_and_prepare()
            return builder, f"jsonl:{release / PUBLISHED[name][0]}"

        yield run


def _in_any_order(examples):
    # TFDS shuffles; a group's answers keep their order.
    return sorted(examples, key=lambda one: (one.group, sorted(one.fields.items()), one.target))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds_and_the_benchmarks_files_are_read_alike(prepare, tmp_path, name, file_format):
    builder, files = prepare(name, tmp_path, file_format)
    if "label" in builder.info.features and FORMATS[name].labels:
        assert FORMATS[name].labels == tuple(builder.info.features["label"].names)
    task, published = load_task(name, data_dir=tmp_path), load_task(None, files)
    assert task.format is published.format is FORMATS[name]
    assert set(task.splits) == {"train", "validation", "test"}
    for split in task.splits:
        examples = _in_any_order(task.examples(split))
        assert examples == _in_any_order(published.examples(split))
        assert all(bool(example.target or example.references) == (split != "test") for example in examples)
    assert load_task(source=f"tfds:{TFDS[name]}", data_dir=tmp_path).format is FORMATS[name]


def test_tfds_prepares_what_is_not_there(prepare, tmp_path):
    task = load_task("rte", data_dir=tmp_path)
    assert len(task.examples("validation")) == 2
    assert list(tmp_path.glob("super_glue/rte/*/*validation.array_record*"))
    with pytest.raises(ValueError, match="no split 'dev'; it has"):
        task.examples("dev")


def test_tfds_without_network_says_what_to_do(prepare, tmp_path, monkeypatch):
    tfds = tfds_source._import_tfds()

    def no_network(_manager, url):
        raise ConnectionError(url)

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", no_network)
    with pytest.raises(RuntimeError, match=r"could not be downloaded.*jsonl"):
        load_task("boolq", data_dir=tmp_path)


def test_tfds_without_a_format(prepare, tmp_path):
    with pytest.raises(ValueError, match=r"no format is known for 'tfds:super_glue/axb'"):
        load_task(source="tfds:super_glue/axb", data_dir=tmp_path)
