"""How the tasks of the `mini` world read as text, and how answers to them are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxprompt.data.mini import facts, matching, reviews
from jaxprompt.data.task_format import Example, TaskFormat


def _parser(*fields: str, target: str) -> Callable[[Mapping[str, str]], list[Example]]:
    def parse(record: Mapping[str, str]) -> list[Example]:
        references = tuple(record["references"].split("\n")) if "references" in record else ()
        return [Example({field: record[field] for field in fields}, record[target], references)]

    return parse


def _parse_fact(record: Mapping[str, str]) -> list[Example]:
    subject, relation = record["subject"], record["relation"]
    fields = {"subject": subject, "relation": relation, "statement": facts.statement(relation, subject)}
    return [Example(fields, record["object"])]


def _facts(name: str, input: str, relations: Sequence[str]) -> TaskFormat:
    return TaskFormat(
        name=name,
        input=input,
        parse=_parse_fact,
        metrics=("p_at_1",),
        hard_prompt="{statement} {target}",
        max_input_length=32,
        max_target_length=4,
        vocabulary=tuple(dict.fromkeys(word for relation in relations for word in facts.objects(relation))),
        keywords=tuple(relations),
    )


def _reviews(name: str, labels: Sequence[str], hard_prompt: str) -> TaskFormat:
    return TaskFormat(
        name=name,
        input="review: {review}",
        parse=_parser("review", target="label"),
        labels=tuple(labels),
        hard_prompt=hard_prompt,
        max_input_length=96,
        max_target_length=4,
    )


FORMATS: dict[str, TaskFormat] = {
    **{
        name: _reviews(name, reviews.POLARITIES, "Is this text positive or negative? {review}")
        for name in ("sentiment", *(f"sentiment/{thing}" for thing in reviews.TOPICS))
    },
    "topic": _reviews("topic", reviews.TOPICS, "Is this a film, a book, an inn or a show? {review}"),
    "entailment": TaskFormat(
        name="entailment",
        input="hypothesis: {hypothesis} premise: {premise}",
        parse=_parser("hypothesis", "premise", target="label"),
        labels=matching.ENTAILMENT_LABELS,
        hard_prompt="Is this so? {hypothesis} {premise}",
        max_input_length=96,
        max_target_length=4,
    ),
    "paraphrase": TaskFormat(
        name="paraphrase",
        input="sentence1: {sentence1} sentence2: {sentence2}",
        parse=_parser("sentence1", "sentence2", target="label"),
        labels=matching.PARAPHRASE_LABELS,
        hard_prompt="Do both say the same? {sentence1} {sentence2}",
        max_input_length=96,
        max_target_length=4,
    ),
    "table2text": TaskFormat(
        name="table2text",
        input="{table}",
        parse=_parser("table", target="text"),
        metrics=("bleu", "rouge_l"),
        hard_prompt="Facts: {table} Text:",
        max_input_length=96,
        max_target_length=64,
    ),
    "summarize": TaskFormat(
        name="summarize",
        input="{document}",
        parse=_parser("document", target="summary"),
        metrics=("rouge_1", "rouge_2", "rouge_l"),
        hard_prompt="{document} In short:",
        max_input_length=128,
        max_target_length=24,
    ),
    "facts": _facts("facts", "{relation} {subject} {target}", facts.RELATIONS),
    **{
        f"facts/{relation}": _facts(f"facts/{relation}", "{subject} {target}", [relation])
        for relation in facts.RELATIONS
    },
}
"""The tasks. Of `facts` also each relation as one of its own, which P-tuning trains a prompt for (Liu et al. 2021); of
`sentiment` also the reviews of each kind of thing, for prompts that are trained on one and tried on another."""
