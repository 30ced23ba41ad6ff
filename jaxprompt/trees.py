"""Trees of parameters by path: names, ordered rules, split and merge.

One matcher serves trainability labels, partition specs and loading tables: an ordered list of (regex, value) over
paths such as `model/encoder/block/self_attention/q/kernel`; a rule applies where its regex matches the whole path, and
the first that does wins. A path that no rule covers, and a rule that no path uses, are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flax import traverse_util

Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]


class RuleError(ValueError):
    """A path that no rule covers, or a rule that no path uses."""


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict as {'a/b/c': leaf}, in the order of the tree. Empty subtrees vanish."""
    return traverse_util.flatten_dict(dict(tree), sep="/") if tree else {}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def match_rules(rules: Rules[Value], paths: Iterable[str], *, unused_ok: bool = False) -> dict[str, Value]:
    """The value of the first rule whose regex matches each whole path.

    Args:
        rules: ordered (regex, value) pairs.
        paths: the paths to cover.
        unused_ok: accept rules that decide no path, for lists shared by several variants of a model.

    Raises:
        RuleError: a path is not covered, or a rule decides no path; the message names all of them.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    used: set[int] = set()
    values: dict[str, Value] = {}
    uncovered = []
    for path in paths:
        for number, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                used.add(number)
                values[path] = value
                break
        else:
            uncovered.append(path)
    unused = [] if unused_ok else [rules[n][0] for n in range(len(rules)) if n not in used]
    problems = []
    if uncovered:
        problems.append(f"no rule covers {_listed(uncovered)}")
    if unused:
        problems.append(f"no path is decided by {_listed(unused)} (is an earlier rule shadowing it?)")
    if problems:
        raise RuleError("; ".join(problems) + f". The rules, in order: {[pattern for pattern, _ in rules]}")
    return values


def map_rules(rules: Rules[Value], tree: Mapping[str, Any], *, unused_ok: bool = False) -> dict[str, Any]:
    """A tree of the same structure that holds, at each leaf, the value its path's rule gives (see `match_rules`)."""
    return unflatten(match_rules(rules, flatten(tree), unused_ok=unused_ok))


def split(tree: Mapping[str, Any], chosen: Mapping[str, bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees: the leaves whose path `chosen` maps to True, and the others.

    Args:
        tree: nested dict.
        chosen: {path: bool} for every path of the tree.
    """
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if chosen[path]}),
        unflatten({path: leaf for path, leaf in flat.items() if not chosen[path]}),
    )


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """The union of trees with disjoint leaves.

    Raises:
        ValueError: two trees hold the same path, or one has a leaf where another has a subtree.
    """
    flat: dict[str, Any] = {}
    for tree in trees:
        extra = flatten(tree)
        if shared := flat.keys() & extra.keys():
            raise ValueError(f"cannot merge trees that both hold {_listed(sorted(shared))}")
        flat |= extra
    inner = {path[:at] for path in flat for at, letter in enumerate(path) if letter == "/"}
    if clashing := flat.keys() & inner:
        raise ValueError(
            f"cannot merge trees of which one has a leaf, another a subtree at {_listed(sorted(clashing))}"
        )
    return unflatten(flat)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
