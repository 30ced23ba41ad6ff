"""What the commands in `launch/` share: reading configs, and errors that speak to the user."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, logging

from jaxprompt.config_values import check_key
from jaxprompt.experiment import Experiment


def parse_flags(arguments: list[str]) -> list[str]:
    """The flag parser for `app.run`: absl's, preceded by a look at which config keys are overridden.

    ml_collections would answer `--config.trian.steps=5` with a traceback of its own.
    """
    for argument in arguments[1:]:
        if override := re.match(r"--?config\.([^=]+)", argument):
            try:
                check_key(Experiment(), override[1])
            except ValueError as error:
                sys.exit(f"{argument}: {error}")
    return app.parse_flags_with_usage(arguments)


def read_experiment(config: Any) -> Experiment:
    """An `ml_collections.ConfigDict` as an experiment.

    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    return Experiment.from_dict(config.to_dict())


def no_arguments(arguments: Sequence[str]) -> None:
    """Refuses arguments that are no flags, such as an override that lacks its dashes.

    Raises:
        absl.app.UsageError: there are some.
    """
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {list(arguments[1:])}; every flag starts with --")


@contextlib.contextmanager
def clear_errors(traceback: bool) -> Iterator[None]:
    """Ends the program with an error's message and exit code 1, without a traceback unless one is wanted.

    Errors that no user causes keep their traceback. Log lines below warnings are left out: orbax writes pages of them.
    So is transformers' advice to install PyTorch, of which nothing here has use.
    """
    logging.set_verbosity(logging.WARNING)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # read when transformers is imported, later on
    try:
        yield
    except (ValueError, OSError, LookupError, RuntimeError, ImportError) as error:
        if traceback:
            raise
        kind = type(error).__name__
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.exit(f"{kind}: {message}\n(--traceback shows where it was raised)")
