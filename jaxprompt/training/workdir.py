"""A run's directory: made, claimed by one experiment, and described."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.experiment.run_config import LAYOUT, ONLOOKERS
from jaxprompt.paths import as_path, is_remote, total_bytes, write_whole
from jaxprompt.processes import barrier, is_main
from jaxprompt.trees import flatten

CONFIG = "config.json"
RESULTS = ("metrics.jsonl", "checkpoints", "prompt", "prompts", "model", "summary.json")
# Network file systems may take this long, in seconds, to show a new file to another machine.
_PATIENCE = 90.0


def open_workdir(path: str | epath.PathLike, experiment: Experiment) -> epath.Path:
    """Makes the directory and writes `config.json`, or makes sure that it holds this very experiment already.

    An experiment that failed before its first result, say at a misspelt file name, does not keep the directory.

    On several processes, every process makes this call; the first one writes.

    Args:
        path: a path or a `gs://` address.
        experiment: that the directory is to belong to.

    Raises:
        ConfigError: the directory belongs to another experiment, and the message names every key that differs; or it
            holds files that a run would overwrite.
        OSError: it cannot be written to, or is not the same directory for all processes.
        ImportError: it is an address, and what reads and writes there is not installed.
    """
    workdir = as_path(path)
    make_writable(workdir)
    # In this order: if the first process is ahead and there are results already, there was a config before them.
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
    if is_main() and found != wanted:
        write_whole(workdir / CONFIG, _json(wanted))
    barrier(f"open_workdir {workdir}")
    if not is_main():
        _find(workdir / CONFIG)
    return workdir


def make_writable(workdir: str | epath.PathLike) -> None:
    """Makes a directory, and makes sure before the training, not at its first checkpoint, that it takes files.

    Every process does so for itself, as every process writes its part of the checkpoints.

    Raises:
        OSError: it cannot be written to, or has no room for a small file.
    """
    workdir = as_path(workdir)
    try:
        if is_remote(workdir):
            probe = workdir / f"probe-{uuid.uuid4().hex}"
            probe.write_bytes(bytes(4096))
            probe.unlink()
            return
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(bytes(4096))
            file.flush()
    except Exception as error:  # the clients of object stores have exceptions of their own, down to plain `Exception`
        remedy = "give another --workdir"
        if is_remote(workdir):
            remedy = (
                "check the address, and that this account may write, read, list and delete there "
                "(gcloud auth application-default login)"
            )
        raise OSError(
            f"the run's directory {workdir} cannot be written to ({error or type(error).__name__}); {remedy}"
        ) from error


def require_space(workdir: str | epath.PathLike, checkpoint_bytes: int, keep: int) -> None:
    """Makes sure that a run's checkpoints have room: those that are kept and, before the oldest goes, one more.

    An object store has room.

    Args:
        workdir: the run's directory; what its `checkpoints/` hold already needs no more room.
        checkpoint_bytes: of one checkpoint.
        keep: how many are kept.

    Raises:
        OSError: they do not fit into the space that is free.
    """
    workdir = as_path(workdir)
    if is_remote(workdir):
        return
    saved = total_bytes(workdir / "checkpoints")
    needed, free = checkpoint_bytes * (keep + 1) - saved, shutil.disk_usage(workdir).free
    if needed > free:
        raise OSError(
            f"the run's directory {workdir} has {free / 2**20:,.1f} MiB free, but {keep} checkpoints and one being "
            f"written, {checkpoint_bytes / 2**20:,.1f} MiB each, need {needed / 2**20:,.1f} MiB more; free some space, "
            "lower train.keep_checkpoints, or give another --workdir"
        )
    barrier(f"require_space {workdir}")  # before one process goes on to delete what another still counts


def write_json(path: str | epath.PathLike, values: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece: a reader finds the old contents or the new, whenever the writer dies.

    On several processes, every process makes this call; the first one writes.
    """
    place = as_path(path)
    if is_main():
        write_whole(place, _json(values))
    barrier(f"write_json {place}")


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _find(config: epath.Path) -> None:
    """Makes sure that this process sees what the first one wrote."""
    deadline = time.monotonic() + _PATIENCE
    while not config.exists():
        if time.monotonic() > deadline:
            raise OSError(
                f"this process does not see {config}, which the first process of the run has written; give a --workdir "
                "that all machines share, such as a gs:// address"
            )
        time.sleep(1)


def _read_config(file: epath.Path) -> dict[str, Any]:
    """The experiment in a `config.json`, its defaults filled in."""
    try:
        return json.loads(json.dumps(Experiment.from_dict(json.loads(file.read_bytes())).to_dict()))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{file} is not a run's configuration ({error}); give another --workdir") from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    there, here = flatten(found), flatten(wanted)
    return "".join(
        f"\n  {name}: there {there[key]!r}, here {value!r}"
        for key, value in here.items()
        if there[key] != value and (name := key.replace("/", ".")) not in (*ONLOOKERS, *LAYOUT)
    )


def _holds_anything(path: epath.Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().length > 0
