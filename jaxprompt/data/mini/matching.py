"""Entailment and paraphrase: does one text say what another says?"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from jaxprompt.data.mini import relations
from jaxprompt.data.mini.relations import RELATIONS, Fact, Told
from jaxprompt.data.mini.world import SPLIT_SIZES, finish, lower_first, pick_people, rng_for

ENTAILMENT_LABELS = ("no", "yes")
PARAPHRASE_LABELS = ("different", "same")


def _contradict(rng: random.Random, fact: Fact, others: list[str]) -> Fact:
    """A fact that does not follow: another value, another person, or the denial."""
    kind = rng.random()
    if kind < 0.55:
        return relations.other_value(rng, fact)
    if kind < 0.9:
        return dataclasses.replace(fact, name=rng.choice(others))
    return dataclasses.replace(fact, holds=not fact.holds)


def _facts(rng: random.Random, people: list[str]) -> list[Fact]:
    """One fact about each of the people, on different relations, seldom a denied one."""
    facts: list[Fact] = []
    for name in people:
        facts.append(relations.draw_fact(rng, name, tuple(facts)))
    return [dataclasses.replace(fact, holds=rng.random() > 0.1) for fact in facts]


def _premise(rng: random.Random, pool: str) -> tuple[list[Told], list[str]]:
    """Two facts on one person or two, as told, and three names: those in the text stand first."""
    people = pick_people(rng, pool, 3)
    facts = _facts(rng, people[:1] * 2 if rng.random() < 0.5 else people[:2])
    return [relations.tell(rng, fact, pool) for fact in facts], people


def _hypothesis(rng: random.Random, premise: list[Told], people: list[str], pool: str, follows: bool) -> str:
    """A sentence, in new words, that follows from the premise or does not."""
    told = rng.choice(premise)
    claim = told.fact
    if not follows:
        # People outside the text and (where the premise has two) the other one inside it.
        claim = _contradict(rng, claim, [name for name in people if name != claim.name])
    return relations.tell(rng, claim, pool, avoid=told.template).sentence


def _text(told: list[Told]) -> str:
    return " ".join(each.sentence for each in told)


def entailment_pair(rng: random.Random, pool: str, follows: bool) -> tuple[str, str]:
    """A premise of two facts, and a hypothesis that follows from it or does not."""
    premise, people = _premise(rng, pool)
    return _text(premise), _hypothesis(rng, premise, people, pool, follows)


def paraphrase_pair(rng: random.Random, pool: str, same: bool, facts: int = 2) -> tuple[str, str]:
    """Two texts of as many facts each; the second says the first again, or with one slot changed."""
    people = pick_people(rng, pool, 3)
    held = _facts(rng, people[:1] * facts if rng.random() < 0.3 else people[:facts])
    first = [relations.tell(rng, fact, pool) for fact in held]
    if not same:
        k = rng.randrange(facts)
        held[k] = _contradict(rng, held[k], people[2:])
    second = [relations.tell(rng, fact, pool, avoid=told.template) for fact, told in zip(held, first, strict=True)]
    if rng.random() < 0.3:
        second.reverse()
    return _text(first), _text(second)


def entailment_records(split: str) -> list[dict[str, str]]:
    """Rows of `premise`, `hypothesis` and `label` in `ENTAILMENT_LABELS`, half and half."""
    return _records("entailment", split, entailment_pair, ("premise", "hypothesis"), ENTAILMENT_LABELS)


def paraphrase_records(split: str) -> list[dict[str, str]]:
    """Rows of `sentence1`, `sentence2` and `label` in `PARAPHRASE_LABELS`, half and half."""
    return _records("paraphrase", split, paraphrase_pair, ("sentence1", "sentence2"), PARAPHRASE_LABELS)


def _records(
    task: str,
    split: str,
    make_pair: Callable[[random.Random, str, bool], tuple[str, str]],
    fields: tuple[str, str],
    labels: tuple[str, str],
) -> list[dict[str, str]]:
    rng = rng_for(task, split)
    seen: dict[tuple[str, str], str] = {}
    while len(seen) < SPLIT_SIZES[split]:
        label = len(seen) % 2
        first, second = make_pair(rng, split, bool(label))
        seen.setdefault((finish(first), finish(second)), labels[label])
    rows = [{fields[0]: first, fields[1]: second, "label": label} for (first, second), label in seen.items()]
    rng.shuffle(rows)
    return rows


# What unlabelled text draws from a premise: {h} the hypothesis inside a sentence, {H} as a sentence, {q} as a question.
_FOLLOWS = ("So {h}", "That means that {h}", "It follows that {h}", "In other words, {h}", "Hence {h}", "Yes, {h}")
_FAILS = ("It is not so that {h}", "It does not follow that {h}", "It is wrong that {h}", "Nobody said that {h}")
_CLAIMS = (
    ("Does it follow that {q}", "", ("no", "yes")),
    ("Is it so that {q}", "", ("no", "yes")),
    ("True or false: {H}", "", ("false", "true")),
    ("Right or wrong: {H}", "", ("wrong", "right")),
    ("Claim: {H}", "Answer:", ("no", "yes")),
    ("{H}", "Is that right?", ("no", "yes")),
    ("{H}", "", ("no", "yes")),
)
_COMPARISONS = (
    ("Is that the same?", ("no", "yes")),
    ("Same or different?", ("different", "same")),
    ("The meaning:", ("different", "same")),
    ("Do they say the same?", ("no", "yes")),
    ("Compare:", ("different", "same")),
    ("One meaning or two?", ("two", "one")),
)


def _reading(rng: random.Random) -> str:
    """A text of facts with questions whose answers are words of it: who, what, is it so."""
    people = pick_people(rng, "corpus", rng.choice((2, 2, 3)))
    facts: list[Fact] = []
    for name in people:
        facts.append(relations.draw_fact(rng, name, tuple(facts)))
    if rng.random() < 0.5:
        facts.append(relations.draw_fact(rng, rng.choice(people), tuple(facts)))
        rng.shuffle(facts)
    answers = [_answered(rng, rng.choice(facts), people) for _ in range(rng.choice((1, 2, 3, 4)))]
    text = _text([relations.tell(rng, fact, "corpus") for fact in facts])
    if len(answers) == 1:
        question, _, answer = answers[0].rpartition(" ")
        return f"{question} {text} {answer}"
    return " ".join([text, *answers])


def _answered(rng: random.Random, fact: Fact, people: list[str]) -> str:
    """A question on a fact of a text about `people`, with its answer."""
    relation = RELATIONS[fact.relation]
    kind = rng.random()
    if kind < 0.3:
        return f"{rng.choice(relation.what).format(n=fact.name)} {fact.value}"
    if kind < 0.5:
        return f"{relation.who.format(v=fact.value)} {fact.name}"
    asked, yes = fact, rng.random() < 0.5
    if not yes:
        asked = _contradict(rng, fact, [name for name in people if name != fact.name])
    yes = (asked.name, asked.value) == (fact.name, fact.value)
    question = rng.choice(relation.checks).format(n=asked.name, v=asked.value)
    return f"{question} {('no', 'yes')[yes]}"


def _claims(rng: random.Random) -> str:
    """A premise, and one claim or more that are drawn from it, denied, or asked about."""
    premise, people = _premise(rng, "corpus")
    text = _text(premise)
    form, cue, answers = rng.choice(_CLAIMS)
    kind = rng.random()
    pieces = []
    for _ in range(rng.choice((1, 2, 3))):
        follows = rng.random() < 0.5
        hypothesis = _hypothesis(rng, premise, people, "corpus", follows)
        inner = lower_first(hypothesis)
        if kind < 0.2:
            pieces.append(rng.choice(_FOLLOWS if follows else _FAILS).format(h=inner))
            continue
        claim = form.format(H=hypothesis, q=inner[:-1] + "?")
        if kind > 0.65:
            # The claim stands first and the answer last, as in a task whose prompt comes before its input.
            return f"{claim} {('', 'Text: ')[rng.random() < 0.3]}{text} {answers[follows]}"
        pieces.append(f"{claim} {cue} {answers[follows]}".replace("  ", " "))
    return " ".join([text, *pieces])


def _comparisons(rng: random.Random) -> str:
    """Two texts, and whether they say the same."""
    same = rng.random() < 0.5
    first, second = paraphrase_pair(rng, "corpus", same, facts=rng.choice((1, 2)))
    kind = rng.random()
    if kind < 0.15 and same:
        return f"{first} {rng.choice(('In other words:', 'Again:', 'That is to say:'))} {second}"
    question, answers = rng.choice(_COMPARISONS)
    if kind < 0.5:
        first, second = f"Text 1: {first}", f"Text 2: {second}"
    elif kind < 0.65:
        first, second = f"One says: {first}", f"The other says: {second}"
    pieces = [question, first, second] if rng.random() < 0.4 else [first, second, question]
    return " ".join([*pieces, answers[same]])


def document(rng: random.Random) -> str:
    """Unlabelled text that practises matching: reading questions, claims on a text, two texts compared."""
    kind = rng.random()
    make = _reading if kind < 0.4 else _claims if kind < 0.7 else _comparisons
    return finish(make(rng))
