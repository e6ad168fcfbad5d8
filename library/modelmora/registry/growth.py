"""How many bytes a model takes: by how much the process grew while it was loaded.

The kernel counts for the process, not for its threads, so loads that overlap are measured together: their growth is
split between them, by their declared sizes if all have one, else evenly. The sum is right, the parts are a guess; a
load that ran alone is measured. Whatever else the process allocates meanwhile counts with it, and what the allocator
kept of an earlier model and uses again does not.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

L = TypeVar("L")


class Growth(Generic[L]):
    """Of this process, over the loads that are under way."""

    def __init__(self, own_bytes: Callable[[], int | None]) -> None:
        self._own_bytes = own_bytes
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._begun_at: int | None = None  # bytes of the process when the first of them began
        self._running = 0
        self._ended: dict[L, int | None] = {}  # declared bytes

    def begin(self) -> None:
        """A load begins."""
        with self._lock:
            if not self._running:
                self._begun_at = self._own_bytes()
            self._running += 1

    def shrunk(self, size_bytes: int) -> None:
        """A model of that size has left meanwhile."""
        with self._lock:
            if self._begun_at is not None and self._running:
                self._begun_at -= size_bytes

    def end(self, load: L, declared_bytes: int | None) -> Mapping[L, int]:
        """A load is over: bytes of it, and of those that overlapped with it and are over too, which count anew."""
        with self._lock:
            self._running -= 1
            self._ended[load] = declared_bytes
            begun_at, now = self._begun_at, self._own_bytes()
            declared = dict(self._ended)
            if not self._running:
                self._forget()
        if begun_at is None or now is None:
            return {}
        return dict(zip(declared, shares(max(0, now - begun_at), list(declared.values())), strict=True))

    def cancel(self) -> None:
        """A load failed: it has no part in what was measured."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._forget()

    def after_fork(self) -> None:
        """In the child: the loads are the parent's."""
        self._lock = threading.Lock()
        self._forget()


def shares(growth_bytes: int, declared: Sequence[int | None]) -> list[int]:
    """A growth split between loads that overlapped."""
    known = [each for each in declared if each]
    if len(known) < len(declared):
        return [growth_bytes // len(declared)] * len(declared)
    return [growth_bytes * each // sum(known) for each in known]
