"""Entries of lists of tasks, by name and by source."""

import pytest

from jaxprompt.config_values import ConfigError
from jaxprompt.data.named_source import NamedSource


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("boolq", ("boolq", "", None)),
        ("mrpc=tfds:glue/mrpc", ("mrpc", "tfds:glue/mrpc", None)),
        ("squad=tfds:squad/v1.1@test", ("squad", "tfds:squad/v1.1", "test")),
        ("dpr=tfds:definite_pronoun_resolution@", ("dpr", "tfds:definite_pronoun_resolution", "")),
    ],
)
def test_entries_of_a_mixture_begin_with_a_name(text, expected):
    assert NamedSource.parse(text) == NamedSource(*expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mini:sentiment/inn", ("", "mini:sentiment/inn", None)),
        ("tfds:glue/mrpc@test", ("", "tfds:glue/mrpc", "test")),
        ("mrqa_race=mrqa:data/dev@test", ("mrqa_race", "mrqa:data/dev", "test")),
        ("own=jsonl:some/dir", ("own", "jsonl:some/dir", None)),
    ],
)
def test_entries_of_transfer_are_sources(text, expected):
    assert NamedSource.of_source(text) == NamedSource(*expected)


def test_what_says_neither_is_refused():
    for text in ("mrpc", "mrpc=glue", "a=b:c=d", ""):
        with pytest.raises(ConfigError, match=r"write \[NAME=\]SOURCE\[@SPLIT\]"):
            NamedSource.of_source(text)
    with pytest.raises(ConfigError, match="write NAME=SOURCE"):
        NamedSource.parse("a=b=c")
