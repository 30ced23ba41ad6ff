"""The invented world: who and what lives in it, and which of its names each kind of text may use."""

from __future__ import annotations

import itertools
import random
import re


def words(text: str) -> tuple[str, ...]:
    """The words of a text: a list of words that reads as lines."""
    return tuple(text.split())


POOLS = ("corpus", "train", "validation", "test")
"""The parts that names and templates fall into: one for unlabelled documents, one for each split of a task."""

SPLIT_SIZES = {"train": 2000, "validation": 500, "test": 500}

_POOL_SHARES = {"corpus": 0.5, "train": 0.25, "validation": 0.125, "test": 0.125}

_FIRST_SYLLABLES = words(
    "Ba Be Bo Da De Do Fa Fe Fi Ga Go Ha He Jo Ju Ka Ke Ko La Le Lo Lu Ma Me Mi Mo Na Ne No Pa Pe Ra Re Ro Sa Se Ta Te "
    "To Ve Vi Wa Za Zo"
)
_LAST_SYLLABLES = words(
    "bel ben bor dal den dor fan fin gan gor kan kel kin lan lin lo mar mer min mon na nel nor ra ran rik ris ros sa "
    "sel son ta ten tha tor van vin vo wen zan"
)
_TITLE_COLOURS = words(
    "Amber Ancient Bright Broken Burning Crystal Dancing Distant Empty Endless Falling Flying Frozen Gentle Golden "
    "Hidden Hollow Iron Lonely Marble Midnight Paper Quiet Rising Royal Secret Silent Silver Sleeping Velvet Wandering "
    "Wild Winter Wooden"
)
_TITLE_NOUNS = words(
    "Anchor Arrow Bell Bird Candle Crown Dragon Falcon Feather Flame Fountain Fox Garden Gate Goose Hammer Lantern "
    "Lion Lake Mirror Moon Orchard Owl Palace Pearl River Rose Shadow Ship Star Stone Storm Swan Tiger Tower Train "
    "Tree Wheel Window Wolf"
)

# Syllables that chance to spell a word, a city or another proper name.
_NOT_NAMES = words(
    "Began Beta Boris Botha Bowen Data Demon Donor Feta Fetor Gamer Gator Golan Halo Kazan Kevin Koran Label Labor "
    "Laden Lamer Legan Lemon Manor Mason Medal Meta Milan Minor Modal Motor Nasa Nobel Pagan Panel Para Paris Paten "
    "Pedal Pekin Rebel Reran Rotor Salan Senor Tamer Tenor Vegan Vigor Visa Vivo"
)

_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


def rng_for(*key: object) -> random.Random:
    """A random stream that is a pure function of its key, on every machine and Python version."""
    return random.Random(":".join(map(str, key)))


def split_pools(names: list[str], kind: str) -> dict[str, tuple[str, ...]]:
    """Deals names into the pools of `POOLS`, disjointly, in a fixed order that `kind` seeds."""
    names = list(names)
    rng_for("pools", kind).shuffle(names)
    pools, start = {}, 0.0
    for pool, share in _POOL_SHARES.items():
        pools[pool] = tuple(names[round(start * len(names)) : round((start + share) * len(names))])
        start += share
    return pools


_NAMES = ["".join(pair) for pair in itertools.product(_FIRST_SYLLABLES, _LAST_SYLLABLES)]
PEOPLE = split_pools([name for name in _NAMES if name not in _NOT_NAMES], "people")
TITLES = split_pools([" ".join(pair) for pair in itertools.product(_TITLE_COLOURS, _TITLE_NOUNS)], "titles")


def pick_people(rng: random.Random, pool: str, count: int) -> list[str]:
    """People of one pool, no two of whom share a first or a last syllable, so that one token tells them apart."""
    chosen: list[str] = []
    while len(chosen) < count:
        name = rng.choice(PEOPLE[pool])
        if all(name[:2] != other[:2] and name[2:] != other[2:] for other in chosen):
            chosen.append(name)
    return chosen


def finish(text: str) -> str:
    """Sets `an` before vowels, which templates leave as `a`."""
    return _ARTICLE.sub(r"\1n ", text)


def lower_first(sentence: str) -> str:
    """A sentence made fit to follow `that`: its opening article or pronoun loses its capital, a name keeps it."""
    first, _, rest = sentence.partition(" ")
    return f"{first.lower()} {rest}" if first in _OPENERS else sentence


_OPENERS = frozenset(words("A The It In There People You What Our Everyone Songs Someone"))
