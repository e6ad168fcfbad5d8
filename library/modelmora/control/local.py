"""Operator and router in one process: each publishes a value, the other watches it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from modelmora.control import Demands, Deployments, Workers

T = TypeVar("T")


class Cell(Generic[T]):
    """A value that changes, and those who watch it. Used from one event loop."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        """None until it was first set."""
        return self._value

    def set(self, value: T) -> None:
        """Replaces the value and wakes every watcher; an equal value wakes nobody."""
        if value == self._value:
            return
        self._value = value
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def watch(self) -> AsyncIterator[T]:
        """The value as soon as there is one, then the newest after each change; what came between is skipped."""
        while True:
            changed = self._changed
            if self._value is not None:
                yield self._value
            await changed.wait()


class LocalControl:
    """`modelmora.control.Control` within one process; the operator's side are the three cells."""

    def __init__(self) -> None:
        self.deployments: Cell[Deployments] = Cell()
        self.workers: Cell[Workers] = Cell()
        self.demands: Cell[Demands] = Cell()

    def watch_deployments(self) -> AsyncIterator[Deployments]:
        return self.deployments.watch()

    def watch_workers(self) -> AsyncIterator[Workers]:
        return self.workers.watch()

    async def publish_demand(self, demands: Demands) -> None:
        self.demands.set(dict(demands))
