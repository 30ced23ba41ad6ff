"""Tasks that a config names one by one: `NAME`, `NAME=SOURCE` or `NAME=SOURCE@SPLIT`."""

from __future__ import annotations

import dataclasses
import re

from jaxprompt.config_values import ConfigError

_ENTRY = re.compile(r"(?P<name>[^=@]+)(?:=(?P<source>[^=]+?))?(?:@(?P<split>\w*))?")


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """One entry of a list of tasks.

    Attributes:
        name: what the task is called in scores; a published task's name says its format, too.
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
