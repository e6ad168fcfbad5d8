"""Who still looks at a piece of shared memory: every array over it, every slice of one, and whatever NumPy, PyTorch or
a user made of those.

NumPy keeps the object behind an array as its base as long as anything refers to it. That object is a `Look`; when it
goes, nobody can see the piece any more.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from modelmora.tensors.layouts import Layout
from modelmora.tensors.mappings import Bytes, address


class Look:
    """At `place`, which is given to `gone` with the last array: at any moment, in any thread."""

    __slots__ = ("__array_interface__", "__weakref__", "_gone", "_mapping", "owner", "place")

    def __init__(self, mapping: Bytes, place: Any, owner: object, gone: Callable[[Any], None]) -> None:  # noqa: ANN401 - the owner's
        self.__array_interface__ = mapping.__array_interface__
        self._mapping = mapping  # stays as long as somebody looks
        self._gone = gone
        self.place = place
        self.owner = owner

    def __del__(self) -> None:
        self._gone(self.place)

    def offset_of(self, array: "npt.NDArray[Any]") -> int:
        """Bytes from the start of the piece to the first element of an array over it."""
        return address(array) - address(self._mapping)


def seen(look: Look, layout: Layout, offset: int = 0, *, writable: bool) -> "npt.NDArray[Any]":
    """An array over a part of what a look sees."""
    array: npt.NDArray[Any] = np.ndarray(layout.shape, layout.dtype, np.asarray(look), offset, layout.strides)
    array.flags.writeable = writable
    return array


def behind(array: "npt.NDArray[Any]") -> Look | None:
    """The look that an array goes back to; None: it is in no arena."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Look) else None
