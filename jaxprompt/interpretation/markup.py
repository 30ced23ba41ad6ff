"""HTML as strings: elements that close, and text and attributes that are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"meta", "br", "rect", "line", "path", "circle", "polyline"})


class Markup(str):
    """Text that is HTML already, and is not escaped again."""


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: such as `table`.
        children: `Markup` as it is, any other value as escaped text; None is left out.
        attributes: with `_` for `-`, and one at the end for names that Python keeps to itself; None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Several children one after the other, escaped where they are no `Markup`."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child)) for child in children if child is not None
        )
    )


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Markup:
    """A table with a line of heads. A cell that is a `Markup` of an element `td` or `th` stands as it is."""
    return element(
        "table",
        element("thead", element("tr", *(_cell(head, "th") for head in heads))),
        element("tbody", *(element("tr", *(_cell(cell, "td") for cell in row)) for row in rows)),
        **attributes,
    )


def _cell(content: object, name: str) -> Markup:
    if isinstance(content, Markup) and content.startswith(("<td", "<th")):
        return content
    return element(name, content)
