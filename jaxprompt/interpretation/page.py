"""A report as one HTML page that needs nothing else: no script, no style sheet, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.interpretation.drawing import bars, heat_map, lines, shade
from jaxprompt.interpretation.markup import Markup, element, join, table
from jaxprompt.interpretation.style import STYLE
from jaxprompt.interpretation.summary import TITLES, share

_OPEN = 4  # up to so many prompts, all of their sections stand open


def to_html(report: Mapping[str, Any], title: str = "Prompts") -> str:
    """The report of `interpret` as a page.

    Args:
        report: what `interpret` found.
        title: of the page.
    """
    prompts, names = report["prompts"], report["similarity"]["names"]
    anchors = {one["name"]: f"prompt-{number}" for number, one in enumerate(prompts)}
    links = [element("a", name, href=f"#{anchor}") for name, anchor in anchors.items()]
    body = [
        element("h1", title),
        element("nav", *links) if len(links) > 1 else None,
        _overview(prompts),
        _closest(report) if report["closest"] else None,
        _between(report["similarity"]) if len(names) > 1 else None,
        _labels(report) if report["labels_by_init"] else None,
        *(_prompt(one, report, anchors[one["name"]], len(prompts) <= _OPEN) for one in prompts),
    ]
    head = [
        element("meta", charset="utf-8"),
        # Nothing is fetched, whatever a token may say.
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    ]
    page = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _overview(prompts: Sequence[Mapping[str, Any]]) -> Markup:
    spread = "{mean:.2f} ± {sd:.2f}"
    rows = [
        (
            one["name"], one["task"] or "-", one["method"] or "-", one["init"] or "-", one["base_model"] or "-",
            _number(f"{one['length']} x {one['width']}"), _number(spread.format(**one["norm"])),
            _number(_cosine(one["mean_similarity"])),
            ", ".join(f"{name} {value:.3f}" for name, value in one["score"].items()) or "-",
        )
        for one in prompts
    ]  # fmt: skip
    heads = ("prompt", "task", "method", "init", "model", _head("size"), _head("norm"), _head("cosine of its tokens"),
             "validation")  # fmt: skip
    return table(heads, rows)


def _closest(report: Mapping[str, Any]) -> Markup:
    parts: list[Markup] = [
        element("h2", "Where to start from"),
        element(
            "p",
            "Prompts of other tasks, ordered by ",
            TITLES[report["measure"]],
            " (Vu et al. 2022). The paper compares prompts after 10,000 steps of training.",
            class_="note",
        ),
    ]
    for target, sources in report["closest"].items():
        rows = [
            (_number(rank), one["name"], one["task"] or "-", *(_number(_cosine(one[name])) for name in TITLES),
             join(join([element("code", flag), " "]) for flag in one["flags"].replace(" --", "\n--").split("\n")))
            for rank, one in enumerate(sources, start=1)
        ]  # fmt: skip
        heads = (_head("rank"), "source", "task", *map(_head, TITLES.values()), "flags")
        parts += [element("h3", "for ", target), table(heads, rows)]
    return join(parts)


def _between(similarity: Mapping[str, Any]) -> Markup:
    names = similarity["names"]
    figures = []
    for measure, title in TITLES.items():
        values = similarity[measure]
        others = [
            abs(value) for i, row in enumerate(values) for j, value in enumerate(row) if i != j and value is not None
        ]
        limit = max(others, default=1.0) or 1.0
        rows = [
            (f"{number + 1}  {name}", *(_shaded(value, limit, own=other == number) for other, value in enumerate(row)))
            for number, (name, row) in enumerate(zip(names, values, strict=True))
        ]
        heads = ("", *(element("th", number + 1, class_="cell") for number in range(len(names))))
        figures.append(element("div", element("h3", title), table(heads, rows)))
    note = (
        "SPoT's two measures (Vu et al. 2022). The second, of a prompt with itself, is 1 only if all of its tokens "
        "point the same way. A dash: prompts of different kinds or models."
    )
    return join(
        [
            element("h2", "Similarity between prompts"),
            element("p", note, class_="note"),
            element("div", *figures, class_="row"),
        ]
    )


def _labels(report: Mapping[str, Any]) -> Markup:
    rows = [
        (
            init, _number(row["prompts"]), _number(share(row["prompts_with_label"])),
            _number(share(row["tokens_with_label"])), _number(share(row["chance"])),
            _number(share(row["labels_found"])),
            _number("-" if row["tokens_per_label"] is None else f"{row['tokens_per_label']:.1f}"),
            _number(share(row["kept"])),
        )
        for init, row in report["labels_by_init"].items()
    ]  # fmt: skip
    heads = ("init", *map(_head, ("prompts", "with a label near", "tokens with a label near", "by chance",
             "labels near a token", "tokens per label", "label kept in its slot")))  # fmt: skip
    return join(
        [
            element("h2", "Class labels among the neighbours, by initialisation"),
            element("p", f"A label is near where one of its subwords is among the {report['k']} nearest by cosine.",
                    class_="note"),
            table(heads, rows),
        ]
    )  # fmt: skip


def _prompt(one: Mapping[str, Any], report: Mapping[str, Any], anchor: str, is_open: bool) -> Markup:
    axis = "prefix position" if one["is_prefix"] else "prompt token"
    vocabulary = one.get("vocabulary")
    level = ("mean of the vocabulary", vocabulary["norm"]["mean"]) if vocabulary else None
    size, cosines = one["length"], one["similarities"]
    limit = max((abs(cosines[i][j]) for i in range(size) for j in range(size) if i != j), default=1.0) or 1.0
    figures = [element("div", element("h3", f"Norm of each {axis}"), bars(one["norms"], axis, level))]
    if one["prefix_norms"]:
        series = {
            f"{stack} {kind}": list(enumerate(values))
            for stack, of in one["prefix_norms"].items()
            for kind, values in of.items()
        }
        figures[0] = join([figures[0], element("h3", "Norms by layer"), lines(series, "layer", marked=True)])
    figures[0] = element("div", figures[0], _curves(one["curves"]))
    figures.append(
        element("div", element("h3", f"Cosines of its {axis}s with each other"), heat_map(cosines, limit, axis))
    )
    parts: list[Markup | None] = [
        element("h2", one["name"], id=anchor),
        element("p", one["place"], class_="note"),
        element("div", *figures, class_="row"),
    ]
    if "no_neighbours" in one:
        parts.append(element("p", one["no_neighbours"], class_="missing"))
    else:
        parts += [_clusters(one), _shared(one), _label_slots(one), _neighbours(one, report["k"], is_open)]
    return element("section", *parts)


def _curves(curves: Mapping[str, Any]) -> Markup | None:
    losses = {name: points for name, points in curves.items() if name.endswith(" loss")}
    scores = {name: points for name, points in curves.items() if name not in losses}
    drawn = [
        join([element("h3", title), lines(series, "step", marked=title == "Scores", log=title == "Loss")])
        for title, series in (("Loss", losses), ("Scores", scores))
        if series
    ]
    return join(drawn) if drawn else None


def _clusters(one: Mapping[str, Any]) -> Markup:
    found = one["clusters"]

    def row(name: str, of: Mapping[str, Any]) -> tuple[object, ...]:
        spreads = (f"{of[key]['mean']:.3f} ± {of[key]['sd']:.3f}" for key in ("tightness", "nearest"))
        z = "-" if of.get("z") is None else f"{of['z']:+.2f}"
        return name, *map(_number, (*spreads, z, share(of.get("percentile"))))

    rows = [row("this prompt", found), *(row(f"random: {name}", of) for name, of in found["random"].items())]
    heads = ("around", *map(_head, ("tightness", "cosine of the nearest", "prompt above them (z)", "tighter than")))
    note = (
        f"Tightness is the mean cosine of the pairs among the {found['size']} nearest tokens; z is in standard "
        "deviations of the random vectors, the last column the share of them whose neighbours are less tight."
    )
    return join(
        [element("h3", "Do its neighbours belong together?"), element("p", note, class_="note"), table(heads, rows)]
    )


def _shared(one: Mapping[str, Any]) -> Markup:
    several = sum(len(of["slots"]) for of in one["shared_neighbours"])
    marks = [join([_near(of["token"], f"{len(of['slots'])}x"), " "]) for of in one["shared_neighbours"]]
    said = element("p", f"{several} of {one['length']} tokens share their nearest neighbour with another. ", *marks)
    return join([element("h3", "Shared nearest neighbours"), said])


def _label_slots(one: Mapping[str, Any]) -> Markup | None:
    if not one["label_neighbours"]:
        return None
    rows = [
        (
            of["label"], join(_near(subword["token"]) for subword in of["subwords"]),
            _listed(of["slots"]), _listed(of["whole_slots"]),
            "-" if of["kept"] is None else "yes" if of["kept"] else "no",
        )
        for of in one["label_neighbours"]
    ]  # fmt: skip
    heads = ("label", "subwords", "near tokens", "whole label near tokens", "kept in its slot")
    return join([element("h3", "Labels"), table(heads, rows)])


def _neighbours(one: Mapping[str, Any], k: int, is_open: bool) -> Markup:
    labels = {subword["id"] for of in one["label_neighbours"] for subword in of["subwords"]}

    def chips(row: Sequence[Mapping[str, Any]], written: str) -> Markup:
        return join(_near(near["token"], written.format(near["value"]), near["id"] in labels) for near in row)

    columns = zip(
        one["norms"],
        one["clusters"]["tightness"]["values"],
        one["neighbours"]["cosine"],
        one["neighbours"]["euclidean"],
        strict=True,
    )
    rows = [
        (*map(_number, (slot, f"{norm:.2f}", f"{tight:.2f}")), chips(by_angle, "{:.2f}"), chips(by_distance, "{:.1f}"))
        for slot, (norm, tight, by_angle, by_distance) in enumerate(columns)
    ]
    heads = (_head("token"), _head("norm"), _head("tightness"), "by cosine", "by Euclidean distance")
    return element(
        "details",
        element("summary", f"The {k} nearest tokens of {one['vocabulary']['model']}"),
        element("p", "␣ is a space; subwords of the task's labels are framed.", class_="note"),
        table(heads, rows),
        open="" if is_open else None,
    )


def _near(token: str, value: str | None = None, is_label: bool = False) -> Markup:
    return element("span", token, None if value is None else element("small", value),
                   class_="near label" if is_label else "near")  # fmt: skip


def _listed(slots: Sequence[int]) -> str:
    return ", ".join(map(str, slots)) or "-"


def _shaded(value: float | None, limit: float, *, own: bool) -> Markup:
    """A cell of a matrix; a prompt's similarity to itself is left without a colour."""
    if value is None or own:
        return element("td", _cosine(value), class_="cell")
    dark = abs(value) > 0.75 * limit and value < 0
    style = f"background:{shade(value, limit)}" + (";color:#fff" if dark else "")
    return element("td", f"{value:.3f}", class_="cell", style=style)


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: object) -> Markup:
    return element("td", value, class_="number")


def _head(text: str) -> Markup:
    return element("th", text, class_="number")
