"""A run's directory: made, claimed by one experiment, and described."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.trees import flatten

CONFIG = "config.json"
RESULTS = ("metrics.jsonl", "checkpoints", "prompt", "model", "summary.json")


def open_workdir(path: str | os.PathLike[str], experiment: Experiment) -> Path:
    """Makes the directory and writes `config.json`, or makes sure that it holds this very experiment already.

    An experiment that failed before its first result, say at a misspelt file name, does not keep the directory.

    Raises:
        ConfigError: the directory belongs to another experiment, and the message names every key that differs; or it
            holds files that a run would overwrite.
        OSError: it cannot be written to.
    """
    workdir = Path(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass  # better to fail here than at the first checkpoint
    except OSError as error:
        raise OSError(
            f"the run's directory {workdir} cannot be written to ({error}); give another --workdir"
        ) from error
    results = [name for name in RESULTS if _holds_anything(workdir / name)]
    wanted = json.loads(json.dumps(experiment.to_dict()))
    found = _read_config(workdir / CONFIG) if (workdir / CONFIG).exists() else None
    if found is None and results:
        raise ConfigError(
            f"{workdir} has no {CONFIG}, so it is not a run's directory, but a run would overwrite its {results}; give "
            "another --workdir"
        )
    if found is not None and results and (differing := _differences(found, wanted)):
        raise ConfigError(
            f"{workdir} holds a run of another configuration:{differing}\nGive the same configuration to resume it, or "
            "another --workdir to start anew"
        )
    if found != wanted:
        write_json(workdir / CONFIG, wanted)
    return workdir


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece: a reader finds the old contents or the new, whenever the writer dies."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    os.replace(fresh, path)


def _read_config(file: Path) -> dict[str, Any]:
    """The experiment in a `config.json`, its defaults filled in."""
    try:
        return json.loads(json.dumps(Experiment.from_dict(json.loads(file.read_text())).to_dict()))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{file} is not a run's configuration ({error}); give another --workdir") from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    there, here = flatten(found), flatten(wanted)
    return "".join(
        f"\n  {key.replace('/', '.')}: there {there[key]!r}, here {value!r}"
        for key, value in here.items()
        if there[key] != value
    )


def _holds_anything(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
