"""What this side of a session has put into its arenas, and what of it the other side has lent."""

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelmora.errors import ModelMoraError, QuotaExceeded
from modelmora.tensors.layouts import Layout, like, to_message
from modelmora.tensors.looks import behind, seen
from modelmora.tensors.pool import Arena, Place, Pool, Quota
from modelmora.v1.types_pb2 import Tensor

MAX_HANDED: Final = 256  # tensors handed over and not released


class Lending:
    """Used by any number of threads."""

    def __init__(
        self,
        quota: Quota,
        *,
        folder: Path | None,
        opened: Callable[[Arena], None],
        closed: Callable[[Arena], None],
    ) -> None:
        self.pool = Pool(quota, folder=folder, opened=opened, closed=closed)
        self._numbers = count(1)
        self._lent: dict[int, Sequence[Place]] = {}
        self._handed: set[int] = set()  # of these, those that count against the bound
        self._may_hand = threading.BoundedSemaphore(MAX_HANDED)

    def __len__(self) -> int:
        return len(self._lent)

    def __contains__(self, lease: int) -> bool:
        return lease in self._lent

    def empty(self, layout: Layout) -> "npt.NDArray[Any]":
        """An array to be filled in place."""
        return seen(self.pool.take(layout.size_bytes), layout, writable=True)

    def put(self, array: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """A copy of the array, in its own order where that is row- or column-major, else row-major."""
        copy = self.empty(like(array))
        copy[...] = array
        return copy

    def handle(self, array: "npt.NDArray[Any]") -> tuple[Tensor, Place] | None:
        """Where an array is; None: in no arena of this side, or not so that it can be said."""
        look = behind(array)
        if look is None or look.owner is not self.pool:
            return None
        layout = Layout(array.dtype, array.shape, array.strides)
        if any(stride < 0 or stride % array.itemsize for stride in array.strides) or not layout.separate:
            return None
        place: Place = look.place
        return to_message(layout, place.arena.number, place.offset + look.offset_of(array)), place

    def placed(self, array: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """The array, or a copy of it in an arena, of which a handle can be had."""
        return array if self.handle(array) else self.put(array)

    def lend(self, arrays: Iterable["npt.NDArray[Any]"]) -> tuple[int, list[Tensor]]:
        """A new lease of these arrays, and their handles. What is in no arena is put into one."""
        placed = [self.placed(array) for array in arrays]  # kept until it is lent: else its place were free
        found = [found for array in placed if (found := self.handle(array))]
        for _, place in found:
            self.pool.lend(place)
        lease = next(self._numbers)
        self._lent[lease] = [place for _, place in found]
        return lease, [message for message, _ in found]

    def hand(self, array: "npt.NDArray[Any]", timeout_s: float | None) -> tuple[int, Tensor]:
        """As `lend`, for a tensor that is handed over: no more than some may be under way.

        Raises:
            QuotaExceeded: as many as may be were not released within that time.
        """
        if not self._may_hand.acquire(timeout=timeout_s):
            raise QuotaExceeded(
                f"{MAX_HANDED} tensors are handed over and not released", remedy="let the other side release some"
            )
        try:
            lease, messages = self.lend([array])
        except BaseException:
            self._may_hand.release()
            raise
        self._handed.add(lease)
        return lease, messages[0]

    def give_back(self, lease: int) -> None:
        """The other side has said, one way or another, that it does not look any more."""
        places = self._lent.pop(lease, None)
        if places is None:
            return
        for place in places:
            self.pool.take_back(place)
        if lease in self._handed:
            self._handed.discard(lease)
            self._may_hand.release()

    def end(self, error: ModelMoraError) -> None:
        """Nothing is lent any more."""
        self.pool.end(error)
        for lease in list(self._lent):
            self.give_back(lease)


def asked(shape: Sequence[int] | int, dtype: npt.DTypeLike, order: str) -> Layout:
    """The layout that somebody asks for.

    Raises:
        InvalidRequest: a dtype that has no name on the wire.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    plain = like(np.empty((0,), dtype=np.dtype(dtype))).dtype
    return (Layout.column_major if order == "F" else Layout.row_major)(plain, sizes)
