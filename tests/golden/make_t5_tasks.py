"""Writes t5_tasks.json: the texts and metric values that the t5 package gives for invented records.

    pip install t5==0.9.4 seqio==0.0.20 mesh_tensorflow tensorflow_text tensorflow_datasets      (an environment apart)
    python tests/golden/make_t5_tasks.py

Records are as TFDS has them. The leading task name is dropped from the inputs, as Lester et al. (2021) do. Two texts of
WSC are the benchmark's own, for T5 writes them by hand.
"""

import json
import os
import re
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import tensorflow as tf
import tensorflow_datasets as tfds
from t5.data import glue_utils, postprocessors, preprocessors
from t5.evaluation import metrics

PADDED = ' "Ada\'s" café,\u00a0she\u000bsaid:\t(well)\r\n\n x-ray  '
NEWS = "\n@highlight\n".join(["The dam broke.", "River Vey rose", "Mayor Oto fled!", '"None hurt"', "End"])

TEXTS = {
    "boolq": [{"question": "is it so", "passage": "It -- It  is so.", "label": 1, "idx": 0}],
    "cb": [{"premise": "A: I doubt it's so.", "hypothesis": "it's so", "label": 2, "idx": 0}],
    "copa": [
        {"premise": "The cup fell.", "choice1": "It broke.", "choice2": "It sang.", "question": "effect"}
        | {"label": label, "idx": 0}
        for label in (0, 1, -1)
    ],
    "multirc": [
        {
            "paragraph": "<b>Sent 1: </b>Tia slept.<br><b>Sent 2: </b>Bo < Al > did not.<br>",
            "question": "Who <b>slept</b>?",
            "answer": "Tia<br>alone",
            "label": label,
            "idx": {"paragraph": 3, "question": 4, "answer": 5 + label},
        }
        for label in (0, 1)
    ],
    "record": [
        {"passage": NEWS, "query": "Water reached @placeholder's house", "entities": ["Oto", "River Vey"]}
        | {"answers": answers, "idx": {"passage": 1, "query": number}}
        for number, answers in enumerate((["Oto"], ["Oto", "River Vey"], []))
    ],
    "rte": [{"premise": "It rained.", "hypothesis": "It was wet.", "label": 1, "idx": 0}],
    "wic": [
        {"word": "bank", "sentence1": "A bank lends.", "sentence2": "The bank is muddy.", "label": 0, "idx": 0}
        | {"start1": 2, "start2": 4, "end1": 6, "end2": 8}
    ],
    "wsc": [
        {"text": text, "span1_text": one, "span1_index": 0, "span2_text": two, "span2_index": index, "label": label}
        | {"idx": 0}
        for text, one, two, index, label in (
            ("Una told Ivo that she had won.", "Una", "she", 4, 1),
            ("Una told Ivo that she had won.", "Ivo", "she", 4, 0),
            ("The mug beside the jug  leaks , so mend it", "The mug", "it", 10, 1),
            ("In spring the old oak's shade hides his bench , his hat .", "the old oak", "his", 10, -1),
            (
                "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out quite "
                'loud. "Good for him," he said. ',
                "the pony",
                "him",
                22,
                1,
            ),
            (
                "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic pebble in "
                "an iron safe . Some day they might want to use it , but really for now, what more could they "
                "wish for?",
                "an iron safe",
                "it",
                28,
                0,
            ),
        )
    ],
    "dpr": [
        {"sentence": sentence, "pronoun": pronoun, "candidates": ["Una", "the mug"], "label": label}
        for sentence, pronoun, label in (
            ("Una hid the mug since she liked it.", "she", 0),
            ("Una hid the mug, for it leaked and it dripped, it did.", "it", 1),
            ("The mug hit Una, so itself it fell.", "it", 1),
        )
    ],
    "sst2": [{"sentence": "oddly moving , if slow . ", "label": label, "idx": 0} for label in (0, 1)],
    "mrpc": [{"sentence1": "Ann left .", "sentence2": "Ann went .", "label": label, "idx": 0} for label in (0, 1)],
    "qqp": [{"question1": "Why?", "question2": "How so?", "label": label, "idx": 0} for label in (0, 1, -1)],
    "glue_rte": [{"sentence1": "It rained.", "sentence2": "Wet.", "label": label, "idx": 0} for label in (0, 1)],
    "squad": [
        {
            "id": "0",
            "question": "Who  said (so)?",
            "context": PADDED,
            "answers": {"text": ["Ada's", "  (Ada)", "x-ray"]},
        },
        {"id": "1", "question": "$5 or 5%", "context": "`5^2` ~ _25_.", "answers": {"text": ["25"]}},
    ],
    "mrqa_bioasq": [
        {"question": " Which\u00a0gene? ", "context": "[PAR] BRCA-1\n\nand others .", "answers": ["BRCA-1", "brca\t1"]}
        | {"detected_answers": {"text": ["BRCA-1"]}},
    ],
}


def multirc_of(*labelled):
    """Answers as (paragraph, question, label)."""
    texts = {"paragraph": "p", "question": "q", "answer": "a"}
    return [
        {**texts, "label": label, "idx": {"paragraph": paragraph, "question": question, "answer": number}}
        for number, (paragraph, question, label) in enumerate(labelled)
    ]


def record_of(*answers):
    return [
        {"passage": "p", "query": "@placeholder", "entities": ["e"], "answers": each, "idx": {"passage": 0, "query": n}}
        for n, each in enumerate(answers)
    ]


def wsc_of(candidate, label):
    text, place = f"{candidate} said it .", len(candidate.split(" ")) + 1
    spans = {"span1_text": candidate, "span1_index": 0, "span2_text": "it", "span2_index": place}
    return [{"text": text, **spans, "label": label, "idx": 0}]


def squad_of(*answers):
    return [{"id": "", "question": "q", "context": "c", "answers": {"text": list(each)}} for each in answers]


NUMBERED = {  # labels and what was predicted
    "boolq": ([1, 0, 1, 0, 1], ["True", "True", "False", "", "true"]),
    "cb": ([0, 1, 2, 2, 1, 0], ["entailment", "neutral", "neutral", "contradiction", "nothing", "entailment"]),
    "copa": ([0, 1, 1], ["choice1", "choice2", "The cup"]),
    "rte": ([0, 1, 1], ["entailment", "not_entailment", "entailment not"]),
    "wic": ([0, 1, 1, 0], ["False", "True", "False", "no"]),
    "sst2": ([0, 1, 1], ["negative", "positive", "good"]),
    "mrpc": ([0, 1, 1, 0, 1], ["equivalent", "equivalent", "not_equivalent", "same", "same"]),
    "qqp": ([0, 1, 1, 0, 1], ["not_duplicate", "duplicate", "not_duplicate", "", "duplicate"]),
    "glue_rte": ([0, 1, 1], ["not_entailment", "not_entailment", "entailment"]),
}
REFERENTS = (  # candidate, whether the pronoun stands for it, what was predicted
    ("The old oak", 1, "oak"),
    ("The old oak", 0, "My Oak"),
    ("The old oak", 1, "the oak tree"),
    ("The old oak", 1, "the old oak tree"),
    ("The old oak", 0, "elm"),
    ("The old oak", 0, ""),
    ("The old oak", 0, " the "),
    ("The old oak", 1, "old  oak"),
    ("Bob's hat", 1, "Bob"),
    ("Bob's hat", 0, "Bob"),
    ("Bob's hat", 1, "bob's"),
    ("his  bell", 1, "bell"),
    ("his  bell", 1, "her bell  tower"),
    ("the", 1, "the oak"),
    ("the", 0, "oak"),
    ("ORLÉANS", 1, "Orléans\n"),
)
METRICS = [
    *((task, [{**TEXTS[task][0], "label": n} for n in numbers], said) for task, (numbers, said) in NUMBERED.items()),
    (
        "multirc",
        multirc_of((0, 7, 1), (0, 7, 0), (0, 8, 1), (1, 9, 0), (1, 9, 1), (1, 10, 1), (1, 10, 0)),
        ["True", "False", "False", "False", "maybe", "True", "True"],
    ),
    (
        "record",
        record_of(["Oto"], ["River Vey", "Vey", "The Vey River"], ["U.S."], ["A", "B"]),
        ["Mayor Oto", "the river", "us", "C"],
    ),
    (
        "squad",
        squad_of(["Ada's"], ["the (old) x-ray", "x-ray of Ada"], ["25"], ["a"], ["Orléans", "orleans"]),
        ["ada's", "X - Ray of the Ada", "about 25", "the", "ORLÉANS ."],
    ),
    *(("wsc", wsc_of(candidate, label), [prediction]) for candidate, label, prediction in REFERENTS),
]


def tensors(value):
    """Lists as tensors of text, whatever is in them."""
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    return tf.constant(value, tf.string) if isinstance(value, list) else value


def config_of(task):
    if task in ("sst2", "mrpc", "qqp", "glue_rte"):
        return tfds.text.glue.Glue.builder_configs[task.removeprefix("glue_")]
    return tfds.text.super_glue.SuperGlue.builder_configs[task]


def preprocessed(task, record):
    """T5's examples of one record, each a mapping from names to values."""
    drops = True
    if task == "wsc":
        process = preprocessors.wsc_simple
    elif task == "dpr":
        process = preprocessors.definite_pronoun_resolution_simple
    elif task == "squad" or task.startswith("mrqa"):
        process, drops = preprocessors.squad, False
    else:
        process = glue_utils.get_glue_text_preprocessor(config_of(task))
    if task.startswith("mrqa"):
        unify = lambda text: re.sub(r"\s+", " ", text)  # noqa: E731
        record = {"id": "", "answers": {"text": [unify(text) for text in record["answers"]]}} | {
            key: unify(record[key]) for key in ("question", "context")
        }
    found = list(process(tf.data.Dataset.from_tensors(tensors(record))).as_numpy_iterator())
    for example in found:
        example["targets_pretokenized"] = example["targets"]
        if drops:
            example["inputs"] = example["inputs"].partition(b" ")[2]
    return found


def text_rows():
    for task, records in TEXTS.items():
        for record in records:
            found = preprocessed(task, record)
            targets = [example["targets"].decode() for example in found]
            references = [answer.decode() for answer in found[0].get("answers", [])]
            (inputs,) = {example["inputs"].decode() for example in found}
            yield {"task": task, "record": record, "inputs": inputs, "targets": targets, "references": references}


def metric_rows():
    for task, records, predictions in METRICS:
        if task == "wsc":
            process, scores = postprocessors.wsc_simple, [metrics.accuracy]
        elif task == "squad":
            process, scores = postprocessors.qa, [metrics.squad]
        else:
            process = glue_utils.get_glue_postprocess_fn(config_of(task))
            named = config_of(task).name
            known = (
                glue_utils.GLUE_METRICS if task in ("sst2", "mrpc", "qqp", "glue_rte") else glue_utils.SUPERGLUE_METRICS
            )
            scores = known[named]
        right, guessed = [], []
        for record, prediction in zip(records, predictions, strict=True):
            for example in preprocessed(task, record):
                right.append(process(example["targets"].decode(), example=example, is_target=True))
                guessed.append(process(prediction, example=example, is_target=False))
        values = {}
        for score in scores:
            values |= {name: float(value) for name, value in score(right, guessed).items()}
        yield {"task": task, "records": records, "predictions": predictions, "percent": values}


def main():
    golden = {"texts": list(text_rows()), "metrics": list(metric_rows())}
    path = Path(__file__).with_name("t5_tasks.json")
    rows = {key: ",\n".join(json.dumps(row) for row in value) for key, value in golden.items()}
    path.write_text("{" + ",\n".join(f'"{key}": [\n{text}\n]' for key, text in rows.items()) + "}\n", encoding="utf-8")
    print(f"{len(golden['texts'])} texts and {len(golden['metrics'])} sets of values in {path}")


if __name__ == "__main__":
    main()
