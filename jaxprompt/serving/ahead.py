"""Work that is done while what was made of earlier work is still in use."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The items, each made on a thread of its own while the one before it is used."""
    made: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    given_up = threading.Event()

    def put(kind: str, value: Any = None) -> None:
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                return made.put((kind, value), timeout=0.1)

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if given_up.is_set():
                    return
            put("end")
        except BaseException as error:  # whatever it is, the thread that uses the items is to meet it
            put("error", error)

    def taken() -> Iterator[Item]:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    # As a daemon it does not keep a process alive that has ended while it waits for a line.
    threading.Thread(target=make, daemon=True, name="jaxprompt-lines").start()
    try:
        yield taken()
    finally:
        given_up.set()
