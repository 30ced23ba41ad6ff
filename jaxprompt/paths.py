"""Places that are directories here or addresses elsewhere."""

from __future__ import annotations

from etils import epath


def absolute(place: str | epath.PathLike) -> epath.Path:
    """The place as an absolute path; an address such as `gs://bucket/run` is one already.

    (`epath.Path.absolute` would put the working directory in front of the address.)
    """
    path = epath.Path(place)
    return path if path.is_absolute() else path.absolute()
