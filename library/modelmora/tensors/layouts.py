"""How the elements of a tensor lie in memory, and whether what a stranger says of it can be true. No I/O.

All numbers are Python's, which do not overflow; nothing here looks at memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.ma import MaskedArray

from modelmora.errors import InvalidRequest
from modelmora.v1.types_pb2 import Region, Tensor
from modelmora.wire.dtypes import DATATYPES, DTYPES

MAX_RANK: Final = 32
_MOST_BYTES: Final = 2**62


@dataclass(frozen=True, slots=True)
class Layout:
    """Strides in bytes, as in NumPy."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def row_major(cls, dtype: np.dtype[Any], shape: Sequence[int]) -> "Layout":
        """C order, without gaps."""
        strides, step = [], dtype.itemsize
        for size in reversed(shape):
            strides.append(step)
            step *= max(size, 1)
        return cls(dtype, tuple(shape), tuple(reversed(strides)))

    @classmethod
    def column_major(cls, dtype: np.dtype[Any], shape: Sequence[int]) -> "Layout":
        """Fortran order, without gaps."""
        turned = cls.row_major(dtype, tuple(reversed(shape)))
        return cls(dtype, tuple(shape), tuple(reversed(turned.strides)))

    @property
    def size_bytes(self) -> int:
        """Of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def extent_bytes(self) -> int:
        """From the first element to the end of the last, gaps included; strides are not negative."""
        if not math.prod(self.shape):
            return 0
        return sum((size - 1) * stride for size, stride in self._steps) + self.dtype.itemsize

    @property
    def dense(self) -> bool:
        """Whether there are no gaps between the elements, whatever their order."""
        return self.extent_bytes == self.size_bytes

    @property
    def separate(self) -> bool:
        """Whether no two elements share a byte: each stride steps over all that the smaller ones reach."""
        reach = self.dtype.itemsize
        for size, stride in sorted(self._steps, key=lambda step: step[1]):
            if stride < reach:
                return False
            reach += (size - 1) * stride
        return True

    @property
    def can_be_said(self) -> bool:
        """Whether there are words for it on the wire."""
        small = self.dtype in DATATYPES and len(self.shape) <= MAX_RANK
        return small and not any(step < 0 or step % self.dtype.itemsize for step in self.strides) and self.separate

    @property
    def _steps(self) -> list[tuple[int, int]]:
        """Size and stride where there is a second element to step to."""
        if 0 in self.shape:
            return []
        return [(size, stride) for size, stride in zip(self.shape, self.strides, strict=True) if size > 1]


def like(array: "np.ndarray[Any, Any]") -> Layout:
    """Of a copy of the array without gaps, in its own order where that is row- or column-major, else row-major.

    Raises:
        InvalidRequest: an element type without a name on the wire, for example object, too many dimensions, or a mask.
    """
    if isinstance(array, MaskedArray):
        raise InvalidRequest("a masked array cannot be shared", remedy="fill it: `array.filled(0)`")
    dtype = array.dtype.newbyteorder("<")
    named(dtype)
    if array.ndim > MAX_RANK:
        raise InvalidRequest(f"a tensor has at most {MAX_RANK} dimensions, not {array.ndim}", remedy="reshape it")
    columns_first = array.flags.f_contiguous and not array.flags.c_contiguous
    return (Layout.column_major if columns_first else Layout.row_major)(dtype, array.shape)


def named(dtype: np.dtype[Any]) -> int:
    """The number of an element type on the wire.

    Raises:
        InvalidRequest: it has none.
    """
    datatype = DATATYPES.get(dtype)
    if datatype is None:
        raise InvalidRequest(f"no tensor on the wire has the dtype {dtype}", remedy="convert it to a real number type")
    return datatype


def to_message(layout: Layout, arena: int, offset: int) -> Tensor:
    """The handle of a tensor: under 1 KiB, whatever its size."""
    rows_first = layout.strides == Layout.row_major(layout.dtype, layout.shape).strides
    return Tensor(
        datatype=DATATYPES[layout.dtype],
        shape=layout.shape,
        region=Region(arena=arena, offset=offset, strides=() if rows_first else layout.strides),
    )


def from_message(tensor: Tensor, arena_bytes: int, *, field: str) -> Layout:
    """What a handle says, if all of it lies in an arena of that size.

    Raises:
        InvalidRequest: it contradicts itself, or reaches out of the arena; `field` is the path of what is wrong.
    """
    layout = _said(tensor, field)
    item, offset = layout.dtype.itemsize, tensor.region.offset
    if any(stride < 0 or stride % item for stride in layout.strides):
        raise _wrong("strides are multiples of the size of one element, from 0", f"{field}.region.strides")
    if not layout.separate:
        raise _wrong("its elements overlap", f"{field}.region.strides")
    if offset % item:
        raise _wrong(f"its offset is no multiple of {item}, the size of one element", f"{field}.region.offset")
    if offset + layout.extent_bytes > arena_bytes:
        reach = offset + layout.extent_bytes
        raise _wrong(f"it reaches to byte {reach} of an arena of {arena_bytes}", f"{field}.region.offset")
    return layout


def _said(tensor: Tensor, field: str) -> Layout:
    dtype, shape = DTYPES.get(tensor.datatype), tuple(tensor.shape)
    if dtype is None:
        raise _wrong("its datatype is not known here", f"{field}.datatype")
    if tensor.data:
        raise _wrong("its elements are in data or in a region, not in both", f"{field}.data")
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise _wrong(f"at most {MAX_RANK} sizes, from 0", f"{field}.shape")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MOST_BYTES:
        raise _wrong("no machine has so much memory", f"{field}.shape")
    if not tensor.region.strides:
        return Layout.row_major(dtype, shape)
    if len(tensor.region.strides) != len(shape):
        raise _wrong("as many strides as sizes", f"{field}.region.strides")
    return Layout(dtype, shape, tuple(tensor.region.strides))


def _wrong(problem: str, field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: the handle of a tensor in shared memory is not valid: {problem}",
        field=field,
        remedy="send handles as the client SDK makes them",
    )
