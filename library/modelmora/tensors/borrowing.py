"""What the other side of a session has lent to this one, and at what of it somebody looks here."""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from modelmora.tensors.foreign import ForeignArenas
from modelmora.tensors.leases import Borrowed
from modelmora.tensors.looks import Look, seen
from modelmora.tensors.pool import Quota
from modelmora.v1.types_pb2 import Tensor


class Borrowing:
    """Used by any number of threads. `awaited` is called, in any of them, when the other side is to hear of an end."""

    def __init__(self, quota: Quota, awaited: Callable[[], None]) -> None:
        self.arenas = ForeignArenas(quota)
        self._borrowed = Borrowed()
        self._lock = threading.Lock()
        # An array may go at any moment, in any thread, also in one that holds the lock: so it is only noted here.
        self._gone: deque[int] = deque()
        self._over: deque[int] = deque()
        self._awaited = awaited
        self._pid = os.getpid()

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._borrowed)

    def view(self, tensor: Tensor, lease: int, *, field: str, told: bool) -> "npt.NDArray[Any]":
        """What a handle stands for, not to be written. The lender hears of its end, or only if it revokes it.

        Raises:
            InvalidRequest: the handle or the lease is not valid; `field` is its path.
        """
        mapping, layout = self.arenas.find(tensor, field=field)
        with self._lock:
            self._sweep()
            self._borrowed.begin(lease, told=told)
        return seen(Look(mapping, lease, self, self._note), layout, tensor.region.offset, writable=False)

    def revoke(self, lease: int) -> None:
        """The lender wants it back."""
        with self._lock:
            if self._borrowed.revoke(lease):
                self._over.append(lease)

    def over(self) -> list[int]:
        """The leases of which the lender is to hear that they are over, each once."""
        with self._lock:
            self._sweep()
            over = list(self._over)
            self._over.clear()
            return over

    def _note(self, lease: int) -> None:
        """Nobody looks any more: noted first, so that a revocation at the same moment finds it."""
        self._gone.append(lease)
        if self._borrowed.is_awaited(lease) and os.getpid() == self._pid:
            self._awaited()

    def _sweep(self) -> None:
        while self._gone:
            lease = self._gone.popleft()
            if self._borrowed.end(lease):
                self._over.append(lease)
