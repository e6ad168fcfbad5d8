"""What the other side of a session has lent to this one, and at what of it somebody looks here."""

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from modelmora.tensors.foreign import ForeignArenas, Sight
from modelmora.tensors.leases import Borrowed
from modelmora.tensors.looks import Look, seen
from modelmora.tensors.pool import Quota
from modelmora.v1.types_pb2 import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """What a look was at, and the lease that it ended."""

    lease: int | None
    sight: Sight | None


class Borrowing:
    """Used by any number of threads. `awaited` is called, in any of them, when the other side is to hear of an end."""

    def __init__(self, quota: Quota, awaited: Callable[[], None]) -> None:
        self.arenas = ForeignArenas(quota)
        self._borrowed = Borrowed()
        self._lock = threading.Lock()
        # An array may go at any moment, in any thread, also in one that holds the lock: so it is only noted here.
        self._gone: deque[_Looked] = deque()
        self._over: deque[int] = deque()
        self._awaited = awaited
        self._pid = os.getpid()
        self._ended = False

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._borrowed)

    def hand(self, tensor: Tensor, lease: int, *, field: str) -> "npt.NDArray[Any]":
        """What was handed over, not to be written: lent as long as anybody looks at it.

        Raises:
            InvalidRequest: the handle or the lease is not valid; `field` is its path.
        """
        self.begin(lease, told=True)
        try:
            return self._seen(tensor, lease, field=field)
        except BaseException:
            self.done(lease)
            raise

    def begin(self, lease: int, *, told: bool = False) -> None:
        """What is lent with it is used from now on, until `done`. The lender hears of that, or only if it revokes it.

        Raises:
            InvalidRequest: the lease was revoked, or is none.
        """
        with self._lock:
            self._sweep()
            self._borrowed.begin(lease, told=told)

    def done(self, lease: int) -> None:
        """It is not used any more."""
        self._note(_Looked(lease, None))

    def view(self, tensor: Tensor, *, field: str) -> "npt.NDArray[Any]":
        """What a handle stands for, not to be written; to be used while its lease is.

        Raises:
            InvalidRequest: the handle is not valid; `field` is its path.
        """
        return self._seen(tensor, None, field=field)

    def _seen(self, tensor: Tensor, lease: int | None, *, field: str) -> "npt.NDArray[Any]":
        sight, layout = self.arenas.look(tensor, field=field)
        look = Look(sight.bytes, _Looked(lease, sight), self, self._note)
        return seen(look, layout, tensor.region.offset, writable=False)

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

    def end(self) -> None:
        """The session is over: what is looked at stays until nobody does, and no longer."""
        self._ended = True
        self.arenas.end()
        with self._lock:
            self._sweep()

    def _note(self, looked: _Looked) -> None:
        """Nobody looks any more: noted first, so that a revocation at the same moment finds it."""
        self._gone.append(looked)
        if self._ended:
            self._gone.clear()
        elif looked.lease is not None and self._borrowed.is_awaited(looked.lease) and os.getpid() == self._pid:
            self._awaited()

    def _sweep(self) -> None:
        while self._gone:
            looked = self._gone.popleft()
            if looked.sight:
                self.arenas.leave(looked.sight)
            if looked.lease is not None and self._borrowed.end(looked.lease):
                self._over.append(looked.lease)
