"""From the name of a model to a directory: a local or embedded one, else a download into Hugging Face's own cache."""

from __future__ import annotations

from pathlib import Path

from jaxprompt.models.weight_files import WEIGHT_FILES
from jaxprompt.models.weight_source import CheckpointError

_SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
_EMBEDDED = Path(__file__).parents[1] / "assets"
_SHARDS = {
    "model.safetensors.index.json": "model-?????-of-?????.safetensors",
    "pytorch_model.bin.index.json": "pytorch_model-?????-of-?????.bin",
}


def locate(name: str, revision: str | None = None) -> Path:
    """The directory of a model, downloaded if need be.

    Of a repository that holds the weights in several formats only one is fetched, safetensors before torch files.
    Environment variables of huggingface_hub (`HF_HOME`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`) apply; without a
    network the cache serves.

    Args:
        name: a directory; the name of a model that comes with the package, `nano-t5` or `nano-gpt2`; or a hub name such
            as `google/t5-base-lm-adapt`. An existing directory goes first, a hub name last.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: there is no such directory or repository, or neither network nor cache has its files.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise CheckpointError(f"{name} is a directory, which has no revision {revision!r}; leave `revision` out")
        return directory
    if directory.exists():
        raise CheckpointError(f"{name} is a file; give the directory that holds config.json and the weights")
    if (own := embedded(name)) is not None:
        return own
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"there is no directory {name}, and it cannot be a hub name (ORGANISATION/MODEL)")
    return _download(name, revision)


def embedded(name: str) -> Path | None:
    """The directory of a model that comes with the package; None: there is none of that name."""
    directory = _EMBEDDED / name
    return directory if "/" not in name and (directory / "config.json").is_file() else None


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for weights in WEIGHT_FILES:
            wanted = [*_SMALL_FILES, weights]
            if weights in _SHARDS:
                wanted.append(_SHARDS[weights])
            directory = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
            if (directory / weights).is_file():
                return directory
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"there is no directory {name}, and the hub's repository of that name{at} could not be had: {error}\n"
            "Check the spelling; for a gated or private repository set HF_TOKEN; without a network, download it first "
            "(huggingface-cli download) or give the path of a directory"
        ) from error
    raise CheckpointError(f"the hub's repository {name} holds none of {', '.join(WEIGHT_FILES)}")
