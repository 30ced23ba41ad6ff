"""A release of SuperGLUE of a few invented lines a task, in the shape of the benchmark's own files."""

NEWS = "Ana met Bo in Rome.\n@highlight\nBo wept\n@highlight\nAna left"


def places(*names):
    return [{"start": NEWS.index(name), "end": NEWS.index(name) + len(name) - 1} for name in names]


def questions(number, *labels):
    answers = [{"text": f"No. {place}", "label": label, "idx": place} for place, label in enumerate(labels)]
    return {"question": f"Which {number}?", "idx": number, "answers": answers}


def pronoun(number, text, candidate, word, places, label):
    spans = {"span1_text": candidate, "span1_index": places[0], "span2_text": word, "span2_index": places[1]}
    return {"text": text, "target": spans, "label": label, "idx": number}


PUBLISHED = {
    "rte": (
        "RTE",
        [
            {"premise": "It rained all day in Orléans.", "hypothesis": "It rained.", "label": "entailment", "idx": 0},
            {"premise": "It rained.", "hypothesis": "It was dry.", "label": "not_entailment", "idx": 1},
        ],
    ),
    "cb": (
        "CB",
        [
            {"premise": "A: I think so.", "hypothesis": "so", "label": "neutral", "idx": 0},
            {"premise": "I know it's so.", "hypothesis": "it's so", "label": "entailment", "idx": 1},
            {"premise": "I doubt it.", "hypothesis": "it", "label": "contradiction", "idx": 2},
        ],
    ),
    "boolq": (
        "BoolQ",
        [
            {"question": "is it so", "passage": "It -- It is so.", "label": True, "idx": 0},
            {"question": "is it not", "passage": "It -- It is so.", "label": False, "idx": 1},
        ],
    ),
    "copa": (
        "COPA",
        [
            {"premise": "It fell.", "choice1": "It broke.", "choice2": "It sang.", "question": "effect"}
            | {"label": label, "idx": label}
            for label in (0, 1)
        ],
    ),
    "multirc": (
        "MultiRC",
        [
            {
                "idx": 3,
                "passage": {"text": "<b>Sent 1: </b>A.<br>", "questions": [questions(7, 0, 1), questions(8, 1)]},
            },
            {"idx": 4, "passage": {"text": "B.", "questions": [questions(9, 0)]}},
        ],
    ),
    "record": (
        "ReCoRD",
        [
            {
                "idx": 5,
                "passage": {"text": NEWS, "entities": places("Rome", "Bo", "Ana", "Bo")},
                "qas": [
                    {"query": "@placeholder wept", "idx": 0, "answers": [{"text": "Bo", "start": 8, "end": 9}] * 2},
                    {"query": "@placeholder met", "idx": 1, "answers": [{"text": "Bo"}, {"text": "Ana"}]},
                ],
            }
        ],
    ),
    "wic": (
        "WiC",
        [
            {
                "word": "bank",
                "sentence1": "A bank lends.",
                "sentence2": "The bank is muddy.",
                "label": label,
                "idx": int(label),
            }
            | {"start1": 2, "start2": 4, "end1": 6, "end2": 8}
            for label in (True, False)
        ],
    ),
    "wsc": (
        "WSC",
        [
            pronoun(0, "Una told Ivo that she had won.", "Una", "she", (0, 4), True),
            pronoun(1, "Una told Ivo that she had won.", "Ivo", "she", (2, 4), False),
            # Spans as the benchmark has some: not in the case, the punctuation or the lines of their text.
            pronoun(2, "Bo lost the mug because It broke .", "The mug.", "It", (2, 5), True),
            pronoun(3, "Here the old oak grew until it fell .", "The old\noak", "It", (1, 6), False),
        ],
    ),
}


def without_answers(value):
    """A test split's lines: nothing that tells the answer."""
    if isinstance(value, list):
        return [without_answers(item) for item in value]
    if not isinstance(value, dict):
        return value
    hidden = {"label"} | ({"answers"} if "query" in value else set())
    return {key: without_answers(item) for key, item in value.items() if key not in hidden}
