"""What is being loaded or unloaded around the running code, so that nothing waits for itself.

A context variable goes where the work goes: into coroutines, and into threads that copy their context.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from modelmora.errors import InvalidRequest
from modelmora.registry.entries import Entry

_around: Final[ContextVar[tuple[Entry, ...]]] = ContextVar("modelmora_registry_around", default=())


@contextmanager
def within(entry: Entry) -> Iterator[None]:
    """The code inside is the loader, or the unload callback, of the entry."""
    entry.thread = threading.get_ident()
    token = _around.set((*_around.get(), entry))
    try:
        yield
    finally:
        _around.reset(token)


def around(entry: Entry) -> bool:
    """Whether the running code is part of what loads, or unloads, the entry."""
    return entry in _around.get()


def refuse_endless_wait(entry: Entry, *, blocking: bool) -> None:
    """Before a wait for the entry; `blocking`: it stops the whole thread.

    Raises:
        InvalidRequest: the wait could only end by its deadline.
    """
    if around(entry):
        raise InvalidRequest(
            f"the loader of {entry.key!r}, or its unload callback, asks for {entry.key!r} itself",
            model_id=str(entry.key),
            field="loader",
            remedy="make the model without asking the registry for it",
        )
    if blocking and entry.loop is not None and entry.loop is _running_loop():
        raise InvalidRequest(
            f"{entry.key!r} is being loaded on the event loop of this thread, which a blocking wait would stop",
            model_id=str(entry.key),
            field="loader",
            remedy="use `await aget_or_load(…)` here",
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # none in this thread
        return None
