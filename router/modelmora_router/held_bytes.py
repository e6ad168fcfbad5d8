"""How many bytes of payload a router holds, and whose requests it refuses when they become too many. No I/O.

Each priority has a share of the limit. What is less urgent is refused earlier, so that a flood of it leaves room for
the rest: memory is kept for CRITICAL as places in a queue are.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from modelmora.errors import MemoryFull
from modelmora.spec import Priority

SHARES: Final[Mapping[Priority, float]] = {
    Priority.CRITICAL: 1.0,
    Priority.HIGH: 0.95,
    Priority.NORMAL: 0.85,
    Priority.LOW: 0.7,
}


class HeldBytes:
    """The ledger: bytes are held from the beginning of a `with` block to its end, however that ends."""

    def __init__(self, limit: int, *, retry_after_s: float) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._held = 0

    @property
    def held(self) -> int:
        return self._held

    @property
    def limit(self) -> int:
        return self._limit

    def hold(self, size: int, priority: Priority) -> "Holding":
        """The bytes of a request, for a `with` block. Entering it raises MemoryFull if there is no room for them."""
        return Holding(self, size, priority)

    def add(self, size: int, priority: Priority, *, mine: int = 0) -> None:
        """Only for Holding, which holds `mine` already.

        Raises:
            MemoryFull: the share of this priority is used up.
        """
        # A request that is larger than its share must have its turn as well: when nothing else is held.
        if self._held > mine and self._held + size > self._limit * SHARES[priority]:
            raise MemoryFull(
                f"the requests that the router holds have {self._held} bytes: "
                f"no room for {size} more of priority {priority.name}",
                remedy="send the request again later or with a higher priority, or raise the setting max_held_bytes",
                retry_after_s=self._retry_after_s,
            )
        self._held += size

    def remove(self, size: int) -> None:
        """Only for Holding."""
        self._held -= size


class Holding:
    """What one request holds of the ledger."""

    __slots__ = ("_ledger", "_priority", "_size")

    def __init__(self, ledger: HeldBytes, size: int, priority: Priority) -> None:
        self._ledger = ledger
        self._size = size
        self._priority = priority

    def __enter__(self) -> Self:
        self._ledger.add(self._size, self._priority)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.remove(self._size)
        self._size = 0

    def grow(self, size: int) -> None:
        """The request has become so much larger.

        Raises:
            MemoryFull: the share of this priority is used up; what was held before still is.
        """
        self._ledger.add(size, self._priority, mine=self._size)
        self._size += size
