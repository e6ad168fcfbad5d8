"""What this side of a session has put into its arenas, and what of it the other side has lent."""

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from operator import index
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modelmora.errors import InvalidRequest, ModelMoraError, QuotaExceeded
from modelmora.tensors import counters
from modelmora.tensors.layouts import MAX_RANK, Layout, from_message, like, to_message
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
        layout = like(array)
        copy = self.empty(layout)
        copy[...] = array
        counters.count_put(array.nbytes)
        if array.size and (array.dtype != layout.dtype or not array.flags.forc):
            counters.count_copied(array.nbytes)
        return copy

    def handle(self, array: "npt.NDArray[Any]") -> tuple[Tensor, Place] | None:
        """Where an array is; None: in no arena of this side, or not so that it can be said."""
        look = behind(array)
        if look is None or look.owner is not self.pool:
            return None
        place: Place = look.place
        layout, offset = Layout(array.dtype, array.shape, array.strides), place.offset + look.offset_of(array)
        if not layout.can_be_said or offset % array.itemsize:
            return None
        return to_message(layout, place.arena.number, offset), place

    def _placed(self, array: "npt.NDArray[Any]") -> "tuple[npt.NDArray[Any], Tensor, Place]":
        """The array, or a copy of it in an arena, and its handle."""
        found = self.handle(array)
        if found is None:
            array = self.put(array)
            found = self.handle(array)
        assert found is not None, "what was put can be said"  # noqa: S101
        return array, *found

    def lend(self, arrays: Iterable["npt.NDArray[Any]"]) -> tuple[int, list[Tensor]]:
        """A new lease of these arrays, and their handles. What is in no arena is put into one."""
        placed = [self._placed(array) for array in arrays]  # kept until it is lent: else its place were free
        for _, _, place in placed:
            self.pool.lend(place)
        lease = next(self._numbers)
        self._lent[lease] = [place for _, _, place in placed]
        return lease, [message for _, message, _ in placed]

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

    def part(self, tensor: Tensor, room: "npt.NDArray[Any] | None", *, field: str) -> "npt.NDArray[Any]":
        """What a handle of the other side stands for, in bytes of this side that it was asked to write.

        Raises:
            InvalidRequest: it reaches out of them.
        """
        look = None if room is None else behind(room)
        found = None if room is None else self.handle(room)
        if look is None or room is None or found is None or found[0].region.arena != tensor.region.arena:
            raise InvalidRequest(f"{field} is not where it was asked for", field=f"{field}.region.arena")
        relative = Tensor()
        relative.CopyFrom(tensor)
        first = found[0].region.offset
        if tensor.region.offset < first:
            raise InvalidRequest(f"{field} is not where it was asked for", field=f"{field}.region.offset")
        relative.region.offset = tensor.region.offset - first
        layout = from_message(relative, room.nbytes, field=field)
        return seen(look, layout, look.offset_of(room) + relative.region.offset, writable=False)

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
        InvalidRequest: a dtype that has no name on the wire, or a shape or an order that there is not.
    """
    sizes = tuple(index(size) for size in (shape if isinstance(shape, Iterable) else (shape,)))
    if order not in {"C", "F"} or len(sizes) > MAX_RANK or any(size < 0 for size in sizes):
        raise InvalidRequest(
            f"no tensor has the shape {sizes} and the order {order}",
            remedy=f"give at most {MAX_RANK} sizes from 0, and the order C or F",
        )
    plain = like(np.empty((0,), dtype=np.dtype(dtype))).dtype
    return (Layout.column_major if order == "F" else Layout.row_major)(plain, sizes)
