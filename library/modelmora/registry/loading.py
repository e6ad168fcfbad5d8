"""How a model is loaded: room is made, the loader runs, the growth is measured, and everybody who waits hears of it."""

import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

from modelmora.errors import DeadlineExceeded, LoadFailed, ModelMoraError
from modelmora.registry.coroutines import OnLoop, is_coroutine
from modelmora.registry.entries import Claim, Entry
from modelmora.registry.growth import Growth
from modelmora.registry.keeper import Keeper
from modelmora.registry.ledger import Ledger
from modelmora.registry.nesting import around, within
from modelmora.registry.unloading import Unloading

log = logging.getLogger(__name__)  # quiet unless the program, which is not ours, asks for it

Loader: TypeAlias = Callable[[], object]
CoroutineLoader: TypeAlias = Callable[[], Awaitable[object]]


class Loading:
    """Carries out the claims of one registry."""

    def __init__(self, ledger: Ledger, growth: Growth[Entry], unloading: Unloading, keeper: Keeper) -> None:
        self._ledger = ledger
        self._growth = growth
        self._unloading = unloading
        self._keeper = keeper

    def here(self, claim: Claim, loader: Loader, timeout_s: float) -> None:
        """In this thread. How it ended says the entry's step; only interruptions are raised."""
        entry = claim.entry
        try:
            with within(entry):
                self._make_room(claim, timeout_s)
                self._load(entry, loader)
        except BaseException as error:
            self._ledger.failed(entry, _failure(entry, error))
            if not isinstance(error, Exception):
                raise
        else:
            self._unloading.all(self._ledger.shrink())
            self._keeper.wake()

    def apart(self, claim: Claim, loader: Loader, timeout_s: float) -> None:
        """In a thread of its own, while this event loop goes on; a coroutine runs on the loop."""
        on_loop = self._on_loop(claim.entry, cast("CoroutineLoader", loader)) if is_coroutine(loader) else None
        run, arguments = contextvars.copy_context().run, (self.here, claim, on_loop or loader, timeout_s)
        # The interpreter waits for a loader's thread before it ends, but not for a loop that may be gone.
        thread = threading.Thread(target=run, args=arguments, name=f"load {claim.entry.key}", daemon=bool(on_loop))
        try:
            thread.start()
        except RuntimeError as error:  # the machine has no more threads, or the interpreter ends
            self._ledger.failed(claim.entry, _failure(claim.entry, error))

    def _on_loop(self, entry: Entry, loader: CoroutineLoader) -> OnLoop:
        with within(entry):  # what it calls knows by its context that it is part of this load
            on_loop = OnLoop(loader)
        entry.loop = on_loop.loop
        entry.step.add_done_callback(lambda _: on_loop.drop())
        return on_loop

    def _make_room(self, claim: Claim, timeout_s: float) -> None:
        self._unloading.all(claim.leaving)
        for other in claim.awaited:
            if not around(other):
                self._gone(claim.entry, other, timeout_s)

    def _gone(self, entry: Entry, other: Entry, timeout_s: float) -> None:
        try:
            other.step.result(timeout_s)
        except TimeoutError:
            waited = f"{entry.key!r} waited {timeout_s:g} s for {other.key!r} to be unloaded"
            raise DeadlineExceeded(waited, model_id=str(entry.key)) from None

    def _load(self, entry: Entry, loader: Loader) -> None:
        self._growth.begin()
        try:
            model = _checked(loader())
        except BaseException:
            self._growth.cancel()
            raise
        measured = self._growth.end(entry, entry.declared_bytes)
        self._ledger.loaded(entry, model, measured)
        log.debug("model %r loaded, %d bytes", entry.key, entry.size_bytes)


def _checked(model: object) -> object:
    if model is None:
        raise TypeError("it returned None")
    if inspect.iscoroutine(model):
        model.close()
        raise TypeError("it returned a coroutine; give the coroutine function itself to aget_or_load")
    return model


def _failure(entry: Entry, error: BaseException) -> ModelMoraError:
    """What all who wait for the load are told; errors of our own as they are."""
    if isinstance(error, ModelMoraError):
        return error
    failure = LoadFailed(
        f"the loader of {entry.key!r} failed: {type(error).__name__}: {error}", model_id=str(entry.key)
    )
    failure.__cause__ = error
    return failure
