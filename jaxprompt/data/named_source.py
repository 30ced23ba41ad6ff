"""Tasks that a config names one by one: `NAME`, `NAME=SOURCE` or `NAME=SOURCE@SPLIT`, or by their source alone."""

from __future__ import annotations

import dataclasses
import re

from jaxprompt.config_values import ConfigError

_ENTRY = re.compile(r"(?P<name>[^=@]+)(?:=(?P<source>[^=]+?))?(?:@(?P<split>\w*))?")
_OF_SOURCE = re.compile(r"(?:(?P<name>[^=@:]+)=)?(?P<source>[^=]+?)(?:@(?P<split>\w+))?")


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """One entry of a list of tasks.

    Attributes:
        name: what the task is called in scores; a published task's name says its format, too. Empty where the source
            is to say it.
        source: as `load_task` takes it; empty where the entry leaves it to the list's pattern.
        split: the split to score; empty: none. None where the entry does not say.
    """

    name: str
    source: str = ""
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> NamedSource:
        """Reads an entry such as `mrpc=tfds:glue/mrpc@test`.

        Raises:
            ConfigError: it is written in another way.
        """
        found = _ENTRY.fullmatch(text)
        if not found:
            raise ConfigError(
                f"cannot read {text!r}; write NAME=SOURCE or NAME=SOURCE@SPLIT, such as mrpc=tfds:glue/mrpc"
            )
        return cls(found["name"], found["source"] or "", found["split"])

    @classmethod
    def of_source(cls, text: str) -> NamedSource:
        """Reads an entry whose name may be left out: `[NAME=]SOURCE[@SPLIT]`, such as `mini:sentiment/inn`.

        Raises:
            ConfigError: it is written in another way.
        """
        found = _OF_SOURCE.fullmatch(text)
        if not found or ":" not in found["source"]:
            raise ConfigError(f"cannot read {text!r}; write [NAME=]SOURCE[@SPLIT], such as mrpc=tfds:glue/mrpc@test")
        return cls(found["name"] or "", found["source"], found["split"])
