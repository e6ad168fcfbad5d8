"""How models leave: their callbacks are called, the objects are given up, their memory is the process' own again."""

import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from modelmora.registry.entries import Entry
from modelmora.registry.growth import Growth
from modelmora.registry.ledger import Ledger
from modelmora.registry.nesting import within

log = logging.getLogger(__name__)  # quiet unless the program, which is not ours, asks for it


class Unloading:
    """Of the models that a ledger has begun to let go, in the thread that asked for it."""

    def __init__(self, ledger: Ledger, growth: Growth[Entry]) -> None:
        self._ledger = ledger
        self._growth = growth

    def all(self, entries: Sequence[Entry]) -> None:
        """Unloads one after the other; an interruption of one does not leave the others half way."""
        with ExitStack() as leaving:
            for entry in reversed(entries):
                leaving.callback(self._one, entry)

    def _one(self, entry: Entry) -> None:
        try:
            with within(entry):
                _call_back(entry)
        finally:
            _let_go(entry)
            self._growth.shrunk(entry.measured_bytes or 0)
            self._ledger.left(entry)


def _call_back(entry: Entry) -> None:
    if entry.unload is None:
        return
    try:
        entry.unload(entry.model)
    except Exception:
        log.exception("the unload callback of model %r failed", entry.key)


def _let_go(entry: Entry) -> None:
    is_gone = _watched(entry.model)
    entry.model = entry.unload = None
    if not is_gone():
        gc.collect()  # it refers to itself
        if not is_gone():
            log.warning("model %r was unloaded, but is still referenced: its memory stays", entry.key)
    log.debug("model %r unloaded, %d bytes", entry.key, entry.size_bytes)


def _watched(model: object) -> Callable[[], bool]:
    """Asks whether the model is gone; of what cannot be watched, that is assumed."""
    try:
        watch = weakref.ref(model)
    except TypeError:  # a plain dict or list, for example
        return lambda: True
    return lambda: watch() is None
