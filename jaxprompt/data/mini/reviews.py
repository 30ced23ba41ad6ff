"""Reviews of films, books, inns and shows, and what can be said after reading one."""

from __future__ import annotations

import random
from collections.abc import Mapping

from jaxprompt.data.mini.world import PEOPLE, SPLIT_SIZES, TITLES, finish, rng_for, words

POLARITIES = ("negative", "positive")

ADJECTIVES = {
    "positive": words(
        "good great wonderful lovely fine superb brilliant charming delightful excellent splendid perfect pleasant "
        "clever beautiful amazing fantastic enjoyable impressive touching memorable marvellous outstanding graceful "
        "thrilling elegant"
    ),
    "negative": words(
        "bad poor awful terrible dull boring horrible dreadful weak ugly clumsy disappointing miserable unpleasant "
        "nasty tedious annoying sloppy mediocre painful pathetic lousy worthless hopeless tiresome shabby"
    ),
}
VERBS = {
    "positive": words("loved enjoyed liked adored admired praised"),
    "negative": words("hated disliked regretted loathed despised cursed"),
}
THINGS = {
    "film": words("story acting ending music cast camera dialogue opening"),
    "book": words("plot writing ending cover hero style opening humour"),
    "inn": words("room breakfast service garden bed view kitchen welcome"),
    "show": words("stage music dancing singing band lighting ending crowd"),
}
TOPICS = tuple(THINGS)

INTROS = {
    "corpus": (
        "I tried {N} last week.",
        "We spent an evening with {N}.",
        "{N} is a {t} from my town.",
        "Yesterday it was time for {N}.",
        "A friend told me about {N}.",
        "This is about {N}.",
        "{n} gave me {N} to try.",
        "The {t} is called {N}.",
        "Now for {N}, the {t}.",
        "Everyone talks about {N}.",
        "After a long day I chose {N}.",
        "{N} was next on my list.",
    ),
    "train": (
        "I went for {N} on Sunday.",
        "My notes on {N}.",
        "{n} and I shared {N}.",
        "{N} is the new {t}.",
        "We picked {N} for the evening.",
    ),
    "validation": ("Last month I got to know {N}.", "{N} came up again.", "Here is what I think of {N}."),
    "test": ("A word about {N}.", "On Monday {n} showed me {N}.", "{N} is the {t} of the month."),
}

# Slots: t the thing, a and b two of its aspects, p and q adjectives of the review's polarity, o one of the opposite,
# v a verb of the polarity, N the title, n a person.
OPINIONS = {
    "corpus": (
        "The {t} was {p}.",
        "The {a} was {p}.",
        "The {a} was really {p}.",
        "I found the {a} {p}.",
        "It was a {p} {t}.",
        "What a {p} {t}!",
        "Such a {p} {a}!",
        "The {a} is {p} and the {b} is {q}.",
        "I {v} the {a}.",
        "We all {v} it.",
        "{n} {v} the {t}.",
        "The {a} was not {o}.",
        "I would not call the {a} {o}.",
        "It is far from {o}.",
        "I never saw a more {p} {t}.",
        "Everything about it was {p}.",
        "The {a} seemed {p} to me.",
        "A {p} {a} and a {q} {b}.",
        "I can only call it {p}.",
        "Even the {a} was {p}.",
        "The {a} felt {p} from start to end.",
        "It was {p} and {q}.",
        "I {v} every minute of it.",
        "The {a} could not be more {p}.",
        "Nothing about it was {o}.",
        "There was nothing {o} in the {a}.",
        "I thought that the {a} was {p}.",
        "The {a} was never {o}.",
        "They call it {o}, but it is {p}.",
        "No {o} {a} here.",
        "People say that the {b} is {p}.",
        "It is {p}, and I {v} it.",
        "The {p} {a} is what I remember.",
        "With a {p} {a} like that, it is {q}.",
        "How {p} the {a} was!",
        "You can see how {p} the {a} is.",
    ),
    "train": (
        "The {a} struck me as {p}.",
        "I must say that the {a} was {p}.",
        "The {t} has a {p} {a}.",
        "You get a {p} {a} here.",
        "For me the {a} was {p}.",
        "I {v} both the {a} and the {b}.",
        "The {a} was anything but {o}.",
        "Never have I seen a {a} so {p}.",
        "It has a {p} {a} and a {q} {b}.",
        "In the end the {a} was just {p}.",
        "The {a} looked {p}.",
        "Honestly, a {p} {t}.",
        "I would say the {t} is {p}.",
        "My family {v} the {a}.",
        "The {a} is not at all {o}.",
        "Most people {v} the {b}.",
    ),
    "validation": (
        "The {a} turned out {p}.",
        "To my mind the {a} was {p}.",
        "This {t} is {p}.",
        "Here the {a} is {p}.",
        "One thing is sure: the {a} was {p}.",
        "We {v} the {a} a lot.",
        "The {a} was by no means {o}.",
        "It offers a {p} {a}.",
        "From the first minute it was {p}.",
        "The {a} and the {b} were {p}.",
    ),
    "test": (
        "The {a} proved {p}.",
        "In my view the {a} was {p}.",
        "A {t} as {p} as this is rare.",
        "This time the {a} was {p}.",
        "Let me be clear: the {a} was {p}.",
        "Both of us {v} the {a}.",
        "The {a} was in no way {o}.",
        "It gives you a {p} {a}.",
        "All evening the {a} was {p}.",
        "The {b} was {p} and so was the {a}.",
    ),
}

# What follows from a review, as unlabelled text says it: (after a positive one, after a negative one).
GISTS = (
    ("All in all a {p} {t}.",) * 2,
    ("All in all, {p}.",) * 2,
    ("In short, the {t} was {p}.",) * 2,
    ("In a word: {p}.",) * 2,
    ("So it was {p}.",) * 2,
    ("So {n} would try it again.", "So {n} would not try it again."),
    ("{n} was happy with it.", "{n} was unhappy with it."),
    ("{n} left with a smile.", "{n} left in anger."),
    ("{n} likes {N}.", "{n} does not like {N}."),
    ("This was praise.", "This was blame."),
    ("Kind words about {N}.", "Harsh words about {N}."),
    ("It was worth the money.", "It was not worth the money."),
)
VERDICTS = (
    ("Verdict: positive.", "Verdict: negative."),
    ("Verdict: good.", "Verdict: bad."),
    ("Mood: happy.", "Mood: unhappy."),
    ("Tone: positive.", "Tone: negative."),
    ("Mark: {five} out of 5.", "Mark: {one} out of 5."),
    ("The review is positive.", "The review is negative."),
    ("The words are positive.", "The words are negative."),
    ("I call that positive.", "I call that negative."),
    ("Thumbs up.", "Thumbs down."),
    ("Liked it? yes", "Liked it? no"),
    ("Label: positive", "Label: negative"),
)
QUESTIONS = (
    ("Was it good? yes", "Was it good? no"),
    ("Did {n} like it? yes", "Did {n} like it? no"),
    ("Was {n} happy? yes", "Was {n} happy? no"),
    ("Is the review positive or negative? positive", "Is the review positive or negative? negative"),
    ("Is that good or bad? good", "Is that good or bad? bad"),
    ("What is the tone? positive", "What is the tone? negative"),
    ("Praise or blame? praise", "Praise or blame? blame"),
    ("Would {n} go again? yes", "Would {n} go again? no"),
)
# What single words are like, as unlabelled text says it; the quickest way to learn which are of a kind.
WORDS = (
    ("{p} is a positive word.", "{p} is a negative word."),
    ("Is {p} good or bad? good", "Is {p} good or bad? bad"),
    ("{p}, {q}: positive", "{p}, {q}: negative"),
    ("{p} means good.", "{p} means bad."),
    ("To call a {a} {p} is praise.", "To call a {a} {p} is blame."),
    ("A {p} {a}: positive", "A {p} {a}: negative"),
    ("They {v} it: positive", "They {v} it: negative"),
    ("{n} {v} the {a}. {n} was happy.", "{n} {v} the {a}. {n} was unhappy."),
    ("not {o}: positive", "not {o}: negative"),
)


_WORDS_SHARE = 0.2


def _opinion(rng: random.Random, template: str, polarity: str, slots: dict[str, str]) -> str:
    other = POLARITIES[polarity == "negative"]
    first, second = rng.sample(ADJECTIVES[polarity], 2)
    a, b = rng.sample(THINGS[slots["t"]], 2)
    verb = rng.choice(VERBS[polarity])
    return template.format(p=first, q=second, o=rng.choice(ADJECTIVES[other]), v=verb, a=a, b=b, **slots)


def _slots(rng: random.Random, pool: str, thing: str | None = None) -> dict[str, str]:
    title = ("", "The ")[rng.random() < 0.5] + rng.choice(TITLES[pool])
    return {"t": thing or rng.choice(TOPICS), "N": title, "n": rng.choice(PEOPLE[pool])}


def review(rng: random.Random, pool: str, polarity: str, slots: dict[str, str], opinions: int) -> str:
    """A review with one introduction (which names the title) and a number of opinions, all of one polarity."""
    sentences = [rng.choice(INTROS[pool]).format(**slots)]
    sentences += [_opinion(rng, t, polarity, slots) for t in rng.sample(OPINIONS[pool], opinions)]
    return " ".join(sentences)


def records(split: str, thing: str | None = None) -> list[dict[str, str]]:
    """Labelled reviews: `review`, and `label` in `POLARITIES`, half and half; of all kinds of things, or of one."""
    rng = rng_for("sentiment", split, *filter(None, [thing]))
    seen: dict[str, str] = {}
    while len(seen) < SPLIT_SIZES[split]:
        polarity = POLARITIES[len(seen) % 2]
        slots = _slots(rng, split, thing)
        seen.setdefault(finish(review(rng, split, polarity, slots, rng.choice((2, 2, 3)))), polarity)
    return _shuffled(rng, seen)


def topic_records(split: str) -> list[dict[str, str]]:
    """Reviews, and as `label` what they are of, in `TOPICS`: each as often as the others."""
    rng = rng_for("topic", split)
    seen: dict[str, str] = {}
    while len(seen) < SPLIT_SIZES[split]:
        thing = TOPICS[len(seen) % len(TOPICS)]
        slots = _slots(rng, split, thing)
        seen.setdefault(finish(review(rng, split, rng.choice(POLARITIES), slots, rng.choice((2, 2, 3)))), thing)
    return _shuffled(rng, seen)


def _shuffled(rng: random.Random, labels: Mapping[str, str]) -> list[dict[str, str]]:
    rows = [{"review": text, "label": label} for text, label in labels.items()]
    rng.shuffle(rows)
    return rows


def document(rng: random.Random) -> str:
    """Unlabelled text around a review: what comes of it, a verdict, a question answered, or two reviews compared."""
    polarity = rng.choice(POLARITIES)
    index = polarity == "negative"
    slots = _slots(rng, "corpus")

    def say(forms: tuple[tuple[str, str], ...]) -> str:
        marks = {"{five}": rng.choice("45"), "{one}": rng.choice("12")}
        form = rng.choice(forms)[index]
        for name, mark in marks.items():
            form = form.replace(name, mark)
        return _opinion(rng, form, polarity, slots)

    if rng.random() < _WORDS_SHARE:
        return finish(say(WORDS))
    if rng.random() < 0.4:
        # The shortest reviews tie words to their polarity most plainly.
        text = _opinion(rng, rng.choice(OPINIONS["corpus"]), polarity, slots)
    else:
        text = review(rng, "corpus", polarity, slots, rng.choice((1, 2, 2, 3)))

    kind = rng.random()
    if kind < 0.18:
        pieces = [text, say(GISTS)]
    elif kind < 0.55:
        pieces = [text, say(VERDICTS)]
    elif kind < 0.7:
        pieces = [text, say(QUESTIONS)]
    elif kind < 0.92:
        # The question stands first, as a prompt before its input does.
        question, _, answer = say(QUESTIONS).rpartition(" ")
        pieces = [question, text, answer]
    elif kind < 0.96:
        pieces = [say(VERDICTS), text]
    else:
        other = rng.choice(POLARITIES)
        second = _opinion(rng, rng.choice(OPINIONS["corpus"]), other, slots)
        agree = polarity == other
        pieces = [text, f"{rng.choice(PEOPLE['corpus'])} said: {second}", _AGREEMENT[agree][rng.random() < 0.5]]
    return finish(" ".join(pieces))


_AGREEMENT = (
    ("Do they agree? no", "Their views are different."),
    ("Do they agree? yes", "Their views are the same."),
)
