"""Which bytes of an arena are taken. No I/O, no memory: offsets and sizes only.

Best fit, and a freed place grows together with its free neighbours, so that an arena in which everything was freed is
one piece again. Places begin at multiples of 64 bytes, as vector instructions and cache lines like it.
"""

from bisect import bisect_left, insort
from typing import Final

ALIGNMENT: Final = 64


class Allocator:
    """Of `size_bytes` bytes. Owned by one thread at a time."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._taken: dict[int, int] = {}  # offset: size
        self._sizes: dict[int, int] = {}  # of the free pieces, by offset
        self._ends: dict[int, int] = {}  # of the free pieces: end: offset
        self._by_size: list[tuple[int, int]] = []  # of the free pieces: size, offset
        self._add_free(0, size_bytes // ALIGNMENT * ALIGNMENT)

    @property
    def empty(self) -> bool:
        """Whether nothing is taken."""
        return not self._taken

    @property
    def taken_bytes(self) -> int:
        return sum(self._taken.values())

    @property
    def largest_free_bytes(self) -> int:
        return self._by_size[-1][0] if self._by_size else 0

    def take(self, size_bytes: int) -> int | None:
        """The offset of a place of that size; None: no free piece is large enough."""
        size = rounded(size_bytes)
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        free, offset = self._by_size[index]
        self._drop_free(offset)
        self._add_free(offset + size, free - size)
        self._taken[offset] = size
        return offset

    def free(self, offset: int) -> None:
        """Gives a place back.

        Raises:
            KeyError: nothing was taken there: a bug of ours.
        """
        size = self._taken.pop(offset)
        begin = self._ends.get(offset, offset)
        end = offset + size + self._sizes.get(offset + size, 0)
        if begin < offset:
            self._drop_free(begin)
        if end > offset + size:
            self._drop_free(offset + size)
        self._add_free(begin, end - begin)

    def _add_free(self, offset: int, size: int) -> None:
        if size:
            self._sizes[offset] = size
            self._ends[offset + size] = offset
            insort(self._by_size, (size, offset))

    def _drop_free(self, offset: int) -> None:
        size = self._sizes.pop(offset)
        del self._ends[offset + size]
        del self._by_size[bisect_left(self._by_size, (size, offset))]


def rounded(size_bytes: int) -> int:
    """What is taken for so many bytes; a tensor without elements has a place too."""
    return max(1, -(-size_bytes // ALIGNMENT)) * ALIGNMENT
