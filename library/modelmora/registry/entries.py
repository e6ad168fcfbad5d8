"""One model on its way through the registry, and what is told of it."""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from modelmora.errors import ModelMoraError
from modelmora.registry.policies import Candidate

Unload: TypeAlias = Callable[[object], object]


Step: TypeAlias = "Future[ModelMoraError | None]"  # a load or an unload; its result is why it failed


def begun() -> Step:
    """A step that is under way; one who waits and is cancelled does not cancel it for the others."""
    step: Step = Future()
    step.set_running_or_notify_cancel()
    return step


@dataclass(slots=True, eq=False)
class Entry:
    """From the first request for a model until it has left. Changed under the ledger's lock."""

    key: Hashable
    declared_bytes: int | None
    unload: Unload | None
    size_bytes: int  # what counts: what was promised while it is loaded, then the larger of declared and measured
    measured_bytes: int | None = None
    model: object = None
    references: int = 0
    hits: int = 0
    loaded_at: float = 0.0
    idle_since: float = math.inf
    step: Step = field(default_factory=begun)  # its load; then, if it leaves, its unload
    thread: int = 0  # that runs this step
    loop: asyncio.AbstractEventLoop | None = None  # that its loader runs on, if it is a coroutine

    def seen(self) -> Candidate:
        """As policies see it."""
        return Candidate(self.key, self.size_bytes, self.references, self.hits + 1, self.loaded_at, self.idle_since)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a caller has to do who did not find the model."""

    entry: Entry
    mine: bool = False  # load it
    gone: bool = False  # it is leaving: wait for that, then ask again
    leaving: Sequence[Entry] = ()  # unload these first
    awaited: Sequence[Entry] = ()  # others unload these: wait for that first


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model: its weights in bytes, its configuration, where it is, and who uses it."""

    key: Hashable
    kind: str  # the class of what the loader returned
    device: str  # as the model says it; empty if it does not
    config: object  # as the model says it, or None
    size_bytes: int  # what counts against the limit: the larger of declared and measured
    measured_bytes: int | None  # by how much the process grew; None where the kernel does not say
    references: int
    hits: int
    idle_s: float | None  # since its last release; None while somebody holds it


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a registry since it was made. A hit is a model that a caller got without a load of its own."""

    models: int = 0
    loading: int = 0
    references: int = 0
    size_bytes: int = 0  # of what is loaded or being loaded
    hits: int = 0
    misses: int = 0  # loads that were begun
    failures: int = 0  # those of them that failed
    unloads: int = 0  # models that left, for whatever reason
    evictions: int = 0  # those of them that left to make room, or by evict()

    @property
    def hit_rate(self) -> float:
        """Hits ÷ requests, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


def listed(entry: Entry, seen: Candidate, now: float) -> LoadedModel | None:
    """What is shown of it; None if it has left since it was seen."""
    model = entry.model
    if model is None:
        return None
    return LoadedModel(
        key=entry.key,
        kind=type(model).__name__,
        device=_device_of(model),
        config=getattr(model, "config", None),
        size_bytes=entry.size_bytes,
        measured_bytes=entry.measured_bytes,
        references=seen.references,
        hits=seen.uses - 1,
        idle_s=None if seen.references else max(0.0, now - seen.idle_since),
    )


def _device_of(model: object) -> str:
    """Its own word, or, of a torch module, that of its first parameter."""
    device = getattr(model, "device", None)
    parameters = getattr(model, "parameters", None)
    if device is None and callable(parameters):
        device = getattr(next(iter(parameters()), None), "device", None)
    return "" if device is None else str(device)
