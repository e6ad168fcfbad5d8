"""Registries in tests: a clock that stands until it is told to go, memory that is what a test says, models to load."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from modelmora.registry import ModelRegistry, Policy

MB = 1_000_000
DEADLINE_S = 20.0  # of waits in tests, which end long before


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeMemory:
    """What this process uses and what is left, as a test sets it."""

    own: int | None = 50 * MB
    free: int | None = None

    def own_bytes(self) -> int | None:
        return self.own

    def free_bytes(self) -> int | None:
        return self.free


class Model:
    """Something to load."""

    def __init__(self, name: Hashable = "model", device: str = "cpu") -> None:
        self.name = name
        self.device = device


@dataclass
class World:
    """A registry with its clock and its memory, and what was loaded and unloaded in it, in order."""

    clock: Clock = field(default_factory=Clock)
    memory: FakeMemory = field(default_factory=FakeMemory)
    loaded: list[Hashable] = field(default_factory=list)
    unloaded: list[Hashable] = field(default_factory=list)

    def registry(
        self,
        *,
        policy: str | Policy = "lru",
        idle_s: float | None = None,
        limit_bytes: int | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> ModelRegistry:
        return ModelRegistry(
            policy=policy,
            idle_s=idle_s,
            memory_limit_bytes=limit_bytes,
            timeout_s=timeout_s,
            clock=self.clock,
            memory=self.memory,
        )

    def loader(self, key: Hashable, *, grows: int = 0) -> Callable[[], Model]:
        """Loads a model by which the process grows."""

        def load() -> Model:
            self.loaded.append(key)
            if self.memory.own is not None:
                self.memory.own += grows
            return Model(key)

        return load

    def unload(self, model: Model) -> None:
        self.unloaded.append(model.name)

    def use(self, registry: ModelRegistry, key: Hashable, size_bytes: int | None = None) -> None:
        """Loads a model, or finds it, and lets it go a second later."""
        with registry.get_or_load(key, self.loader(key), size_bytes=size_bytes, unload=self.unload):
            self.clock.go(1)


class Gate:
    """A loader that stands still until it is let go on, and says when it began."""

    def __init__(self, model: object = None) -> None:
        self.model = Model() if model is None else model
        self.begun, self._open = threading.Event(), threading.Event()
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self) -> object:
        self.calls += 1
        self.begun.set()
        assert self._open.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        return self.model

    def open(self) -> None:
        self._open.set()


def keys(registry: ModelRegistry) -> list[Hashable]:
    return [model.key for model in registry.list_models()]


def references(registry: ModelRegistry, key: Hashable) -> int:
    return next(model.references for model in registry.list_models() if model.key == key)
