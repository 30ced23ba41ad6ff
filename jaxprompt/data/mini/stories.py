"""Short stories with one event that matters, and their one-sentence summaries."""

from __future__ import annotations

import random

from jaxprompt.data.mini.relations import RELATIONS
from jaxprompt.data.mini.world import SPLIT_SIZES, finish, pick_people, rng_for

_EVENTS = {
    "corpus": (
        "In the {home} {n} found a {lost}.",
        "There {n} lost a {lost}, in the {home}.",
        "Then {n} met {m} in the {home}.",
    ),
    "train": (
        "Near the {home} {n} found a {lost}.",
        "It was in the {home} that {n} lost a {lost}.",
        "By the {home} {n} met {m}.",
    ),
    "validation": (
        "At last {n} found a {lost} in the {home}.",
        "Poor {n} lost a {lost} in the {home}.",
        "{n} saw {m} in the {home} and they met.",
    ),
    "test": (
        "And then {n} found a {lost} in the {home}.",
        "Alas, {n} lost a {lost} in the {home}.",
        "So {n} met {m} in the {home}.",
    ),
}
_SUMMARIES = ("{n} found a {lost} in the {home}.", "{n} lost a {lost} in the {home}.", "{n} met {m} in the {home}.")
_FILLERS = {
    "corpus": (
        "The sun was high.",
        "It was a cold day.",
        "{n} walked for hours.",
        "Birds sang in the trees.",
        "Nobody said a word.",
        "The road was long.",
        "{n} ate {food} on the way.",
        "A {animal} ran by.",
        "Far off somebody played the {music}.",
        "The wind was strong.",
        "{n} thought of home.",
        "Rain began to fall.",
    ),
    "train": (
        "Clouds passed over the hills.",
        "{n} sang a song.",
        "A {animal} slept by the road.",
        "It was late.",
        "There was {food} for lunch.",
    ),
    "validation": ("The night was near.", "{n} was tired.", "One could hear a {music}.", "The path was steep."),
    "test": ("The morning was clear.", "{n} sat down for a while.", "A {animal} looked up.", "The bells rang."),
}
_OPENERS = {
    "corpus": ("One day {n} the {job} left the house.", "{n} was a {job}.", "The {job} {n} went out early."),
    "train": ("On Sunday {n} the {job} went for a walk.", "A {job} called {n} got up early."),
    "validation": ("{n} the {job} had a day off.",),
    "test": ("This is the tale of {n} the {job}.",),
}


def story(rng: random.Random, pool: str) -> tuple[str, str]:
    """A story of four to six sentences, and the sentence that sums it up."""
    n, m = pick_people(rng, pool, 2)
    slots = {key: rng.choice(relation.values) for key, relation in RELATIONS.items()} | {"n": n, "m": m}
    kind = rng.randrange(len(_SUMMARIES))
    sentences = rng.sample(_FILLERS[pool], rng.randint(2, 4))
    sentences.insert(rng.randint(0, len(sentences)), _EVENTS[pool][kind])
    text = " ".join([rng.choice(_OPENERS[pool]), *sentences])
    return finish(text.format(**slots)), finish(_SUMMARIES[kind].format(**slots))


def records(split: str) -> list[dict[str, str]]:
    """Rows of `document` and `summary`."""
    rng = rng_for("summarize", split)
    rows: dict[str, str] = {}
    while len(rows) < SPLIT_SIZES[split]:
        rows.setdefault(*story(rng, split))
    return [{"document": text, "summary": summary} for text, summary in rows.items()]


def document(rng: random.Random) -> str:
    """Unlabelled text: a story, and mostly what it comes to."""
    text, summary = story(rng, "corpus")
    kind = rng.random()
    if kind < 0.7:
        return f"{text} {rng.choice(('In short:', 'To sum up:', 'What happened?', 'The news:'))} {summary}"
    if kind < 0.85:
        return f"{summary} {rng.choice(('The whole story:', 'This is how:', ''))} {text}".replace("  ", " ")
    return text
