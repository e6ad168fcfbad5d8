"""What the other side has lent to this one, and when it must hear that it may have it back. No I/O."""

from collections import OrderedDict
from typing import Final

from modelmora.errors import InvalidRequest

_REMEMBERED: Final = 4096  # revoked ones that were never seen; a message that is later than so many others is lost


class Borrowed:
    """Of one session, by number of the lease. Owned by one thread at a time, but for `is_awaited`."""

    def __init__(self) -> None:
        self._looks: dict[int, int] = {}
        self._told: set[int] = set()
        self._revoked: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._looks)

    def is_awaited(self, lease: int) -> bool:
        """Whether the lender waits to hear of its end."""
        return lease in self._told or lease in self._revoked

    def begin(self, lease: int, *, told: bool) -> None:
        """Something looks at what is lent with it; the lender is `told` of its end, or only if it revokes it.

        Raises:
            InvalidRequest: it was revoked, or is no lease.
        """
        if not lease or lease in self._revoked:
            what = "was revoked" if lease else "is 0"
            raise InvalidRequest(
                f"the lease {what}", field="sharedMemory.lease", remedy="lend it anew, with a new number from 1"
            )
        self._looks[lease] = self._looks.get(lease, 0) + 1
        if told:
            self._told.add(lease)

    def end(self, lease: int) -> bool:
        """It looks no more; the answer: whether that was the last look, and the lender is to hear of it."""
        self._looks[lease] -= 1
        if self._looks[lease]:
            return False
        del self._looks[lease]
        awaited = self.is_awaited(lease)
        self._told.discard(lease)
        return awaited

    def revoke(self, lease: int) -> bool:
        """From now on no new look is taken; the answer: whether there is none, and the lender is to hear so at once."""
        self._revoked[lease] = None
        while len(self._revoked) > _REMEMBERED:
            self._revoked.popitem(last=False)
        return lease not in self._looks
