"""Whether a backend of a route fails too often: what is counted of it, and when that is enough. No I/O.

Of no request anything is kept: those of one sixtieth of the window are counted together, and leave it together. What is
counted belongs to one edition of the route; an edit begins anew.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from modelmora.control import Key, Trip
from modelmora.errors import (
    DeadlineExceeded,
    FeatureUnavailable,
    LoadError,
    ModelMoraError,
    ModelUnhealthy,
    ServerError,
    WorkerUnavailable,
)
from modelmora.spec import ModelRoute, Rollback

_STEPS: Final = 60
_OF_THE_MODEL: Final = (ServerError, LoadError, ModelUnhealthy, WorkerUnavailable)
_MODELS_OWN_TIME: Final = "timeoutSeconds"  # the field that an expiry names, unless it was the call's own deadline


def is_models_fault(error: ModelMoraError, *, timeout_of_caller: bool) -> bool:
    """Whether another version of the model might have answered: neither the caller, nor mere load, nor we are at fault.

    One that was not loaded in time perhaps waited for a place; one that cannot be loaded is told otherwise. An expiry
    is the model's if the time was what its deployment allows: `timeout_of_caller` says that it was not.
    """
    if isinstance(error, DeadlineExceeded):
        return not timeout_of_caller and error.context.field == _MODELS_OWN_TIME
    return isinstance(error, _OF_THE_MODEL) and not isinstance(error, FeatureUnavailable)


class Window:
    """How many requests of the last seconds ended, and how many of these failed."""

    def __init__(self, seconds: float) -> None:
        self._step_s = seconds / _STEPS
        self._steps: deque[tuple[int, int, int]] = deque()  # number, ended, failed
        self.ended = self.failed = 0

    def note(self, *, failed: bool, now: float) -> None:
        """Another one ended; `now` does not go back."""
        number, one = int(now // self._step_s), int(failed)
        self._forget(number - _STEPS)
        if self._steps and self._steps[-1][0] == number:
            _, ended, before = self._steps.pop()
            self._steps.append((number, ended + 1, before + one))
        else:
            self._steps.append((number, 1, one))
        self.ended += 1
        self.failed += one

    def _forget(self, last: int) -> None:
        while self._steps and self._steps[0][0] <= last:
            _, ended, failed = self._steps.popleft()
            self.ended -= ended
            self.failed -= failed


def too_many(failed: int, ended: int, limits: Rollback) -> bool:
    """Whether that is enough to roll a backend back."""
    return ended >= limits.min_requests and failed * 100 >= limits.error_percent * ended


@dataclass(frozen=True, slots=True)
class Edition:
    """A route as it was after one edit."""

    key: Key
    model_id: str
    uid: str
    generation: int


class Trial:
    """A backend that may be rolled back, at one edition of its route."""

    def __init__(self, edition: Edition, backend: str, limits: Rollback) -> None:
        self.edition = edition
        self.backend = backend
        self._limits = limits
        self._window = Window(limits.window_seconds)
        self._last = ""  # the last failure

    def answered(self, now: float) -> Trip | None:
        """A request that it got was answered; what follows, if that makes enough of them."""
        return self._ended(failure="", now=now)

    def failed(self, error: ModelMoraError, now: float, *, timeout_of_caller: bool) -> Trip | None:
        """A request that it got was not; what follows, if it is enough."""
        if not is_models_fault(error, timeout_of_caller=timeout_of_caller):
            return None
        return self._ended(failure=type(error).__name__, now=now)

    def _ended(self, *, failure: str, now: float) -> Trip | None:
        window = self._window
        window.note(failed=bool(failure), now=now)
        self._last = failure or self._last
        if not too_many(window.failed, window.ended, self._limits):
            return None
        seconds = self._limits.window_seconds
        words = f"{window.failed} of {window.ended} requests of {seconds} s failed ({self._last})"
        return Trip(self.edition.uid, self.edition.generation, self.backend, words)


def trials(route: ModelRoute, before: Mapping[str, Trial]) -> dict[str, Trial]:
    """Of the backends that may be rolled back, by name; those of the same edition count on."""
    limits, metadata = route.spec.rollback, route.metadata
    if limits is None:
        return {}
    key = Key(metadata.namespace, metadata.name)
    edition = Edition(key, route.spec.model_id, metadata.uid, metadata.generation)
    known = {name: trial for name, trial in before.items() if trial.edition == edition}
    return {name: known.get(name) or Trial(edition, name, limits) for name in route.spec.at_risk}
