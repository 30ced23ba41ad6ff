"""Facts about people, each sayable in many ways: the stuff of entailment and paraphrase."""

from __future__ import annotations

import dataclasses
import random

from jaxprompt.data.mini.world import lower_first, words


@dataclasses.dataclass(frozen=True)
class Relation:
    """One thing that can be true of a person.

    Attributes:
        values: what a person's value can be; no two relations share one.
        statements: for each pool, ways to state it; slots `{n}` (name) and `{v}` (value).
        checks: yes/no questions on it, for unlabelled text.
        what: a question that asks for the value.
        who: a question that asks for the name.
    """

    values: tuple[str, ...]
    statements: dict[str, tuple[str, ...]]
    checks: tuple[str, ...]
    what: tuple[str, ...]
    who: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A name, the key of a relation in `RELATIONS`, and a value; `holds` is False where it is said not to be so."""

    name: str
    relation: str
    value: str
    holds: bool = True


@dataclasses.dataclass(frozen=True)
class Told:
    """A fact in the words of a template, denied in the words of `denial` where it does not hold."""

    fact: Fact
    template: str
    denial: str

    @property
    def sentence(self) -> str:
        """The fact as a sentence."""
        sentence = self.template.format(n=self.fact.name, v=self.fact.value)
        return sentence if self.fact.holds else f"{self.denial} {lower_first(sentence)}"


def _relation(values: str, statements: dict[str, tuple[str, ...]], **questions: object) -> Relation:
    return Relation(values=words(values), statements=statements, **questions)  # type: ignore[arg-type]


RELATIONS = {
    "job": _relation(
        "baker farmer teacher doctor painter singer sailor tailor hunter miller potter guard",
        {
            "corpus": (
                "{n} is a {v}.",
                "{n} works as a {v}.",
                "{n} has become a {v}.",
                "The {v} is called {n}.",
                "People know {n} as a {v}.",
            ),
            "train": ("{n} earns money as a {v}.", "{n} wants to stay a {v}.", "The town has a {v} called {n}."),
            "validation": ("{n} has the job of a {v}.", "There is a {v} whose name is {n}."),
            "test": ("{n} makes a living as a {v}.", "Our {v} is {n}."),
        },
        checks=("Is {n} a {v}?", "Does {n} work as a {v}?"),
        what=("What is {n}?", "What is the job of {n}?"),
        who="Who is a {v}?",
    ),
    "home": _relation(
        "valley forest village harbour castle city island mountains desert marsh",
        {
            "corpus": (
                "{n} lives in the {v}.",
                "The home of {n} is in the {v}.",
                "{n} has a house in the {v}.",
                "You will find {n} in the {v}.",
                "{n} moved to the {v}.",
            ),
            "train": ("{n} stays in the {v}.", "{n} has a home in the {v}.", "In the {v} you can meet {n}."),
            "validation": ("{n} is at home in the {v}.", "The {v} is where {n} lives."),
            "test": ("{n} sleeps in the {v}.", "The house of {n} is in the {v}."),
        },
        checks=("Does {n} live in the {v}?", "Is {n} in the {v}?"),
        what=("Where does {n} live?", "Where is {n}?"),
        who="Who lives in the {v}?",
    ),
    "food": _relation(
        "bread soup fish rice cheese honey cake nuts plums beans",
        {
            "corpus": (
                "{n} likes {v}.",
                "{n} often eats {v}.",
                "The best food for {n} is {v}.",
                "{n} asks for {v} every day.",
                "{n} is fond of {v}.",
            ),
            "train": ("{n} loves to eat {v}.", "{n} eats {v} every day.", "{n} wants {v} for dinner."),
            "validation": ("{n} enjoys {v}.", "The food that {n} likes is {v}."),
            "test": ("{n} is happy with {v}.", "What {n} likes to eat is {v}."),
        },
        checks=("Does {n} like {v}?", "Does {n} eat {v}?"),
        what=("What does {n} like?", "What does {n} eat?"),
        who="Who likes {v}?",
    ),
    "animal": _relation(
        "dog cat horse goat rabbit donkey parrot sheep",
        {
            "corpus": (
                "{n} has a {v}.",
                "{n} owns a {v}.",
                "The {v} belongs to {n}.",
                "{n} keeps a {v}.",
                "{n} feeds a {v}.",
            ),
            "train": ("A {v} lives with {n}.", "{n} bought a {v}.", "{n} takes care of a {v}."),
            "validation": ("{n} is the owner of a {v}.", "The {v} of {n} is well."),
            "test": ("{n} looks after a {v}.", "There is a {v} that belongs to {n}."),
        },
        checks=("Does {n} have a {v}?", "Does {n} own a {v}?"),
        what=("What does {n} own?", "Which animal belongs to {n}?"),
        who="Who has a {v}?",
    ),
    "music": _relation(
        "flute drum harp violin trumpet piano guitar horn",
        {
            "corpus": (
                "{n} plays the {v}.",
                "{n} can play the {v}.",
                "The {v} is played by {n}.",
                "{n} makes music with the {v}.",
                "{n} learns the {v}.",
            ),
            "train": ("{n} practises the {v}.", "{n} plays songs on the {v}.", "Everyone hears {n} on the {v}."),
            "validation": ("{n} is good at the {v}.", "The music of {n} comes from the {v}."),
            "test": ("{n} knows how to play the {v}.", "Songs on the {v} are played by {n}."),
        },
        checks=("Does {n} play the {v}?", "Is the {v} played by {n}?"),
        what=("What does {n} play?", "What can {n} play?"),
        who="Who plays the {v}?",
    ),
    "coat": _relation(
        "red blue green white black yellow brown grey",
        {
            "corpus": (
                "{n} wears a {v} coat.",
                "The coat of {n} is {v}.",
                "{n} has a {v} coat.",
                "{n} put on a {v} coat.",
                "A {v} coat belongs to {n}.",
            ),
            "train": ("{n} walks in a {v} coat.", "The coat that {n} wears is {v}.", "{n} goes out in a {v} coat."),
            "validation": ("{n} is dressed in a {v} coat.", "The {v} coat is that of {n}."),
            "test": ("{n} bought a {v} coat.", "The colour of the coat of {n} is {v}."),
        },
        checks=("Does {n} wear a {v} coat?", "Is the coat of {n} {v}?"),
        what=("Which coat does {n} wear?", "What colour is the coat of {n}?"),
        who="Who wears a {v} coat?",
    ),
    "made": _relation(
        "boat table basket bridge chair cart door kite ladder",
        {
            "corpus": (
                "{n} built a {v}.",
                "A {v} was built by {n}.",
                "{n} made a {v}.",
                "The {v} was made by {n}.",
                "{n} has finished a {v}.",
            ),
            "train": ("The {v} is the work of {n}.", "{n} put together a {v}.", "A {v} was finished by {n}."),
            "validation": ("{n} is the maker of the {v}.", "It was {n} who built a {v}."),
            "test": ("The {v} comes from the hands of {n}.", "It was {n} who made a {v}."),
        },
        checks=("Did {n} build a {v}?", "Was the {v} made by {n}?"),
        what=("What did {n} build?", "What was made by {n}?"),
        who="Who made a {v}?",
    ),
    "lost": _relation(
        "ring key hat coin letter bag map knife",
        {
            "corpus": (
                "{n} lost a {v}.",
                "A {v} was lost by {n}.",
                "The {v} that {n} had is gone.",
                "{n} misses a {v}.",
                "{n} is sad about the lost {v}.",
            ),
            "train": ("{n} is looking for a {v}.", "The lost {v} was that of {n}.", "{n} had a {v} and lost it."),
            "validation": ("{n} dropped a {v}.", "The {v} of {n} is lost."),
            "test": ("It was {n} who lost a {v}.", "{n} has to find a {v}."),
        },
        checks=("Did {n} lose a {v}?", "Was the {v} lost by {n}?"),
        what=("What did {n} lose?", "What was lost by {n}?"),
        who="Who lost a {v}?",
    ),
}

DENIALS = {
    "corpus": ("It is not so that", "It is wrong that", "It is not the case that"),
    "train": ("It is untrue that", "It is no fact that"),
    "validation": ("It is false that",),
    "test": ("It is not true that",),
}


def draw_fact(rng: random.Random, name: str, avoid: tuple[Fact, ...] = ()) -> Fact:
    """A fact about `name` on a relation that none of `avoid` is about."""
    used = {fact.relation for fact in avoid}
    relation = rng.choice([key for key in RELATIONS if key not in used])
    return Fact(name, relation, rng.choice(RELATIONS[relation].values))


def other_value(rng: random.Random, fact: Fact) -> Fact:
    """The fact with another value of its relation."""
    values = [value for value in RELATIONS[fact.relation].values if value != fact.value]
    return dataclasses.replace(fact, value=rng.choice(values))


def tell(rng: random.Random, fact: Fact, pool: str, avoid: str = "") -> Told:
    """The fact in words drawn from a pool, but not in the template `avoid`."""
    templates = [template for template in RELATIONS[fact.relation].statements[pool] if template != avoid]
    return Told(fact, rng.choice(templates), rng.choice(DENIALS[pool]))
