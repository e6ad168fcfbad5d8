"""What a process that is forked from this one must not keep: open in a child, it would hide the end of its parent."""

import os
import weakref
from typing import Final, Protocol


class Forked(Protocol):
    """Something that belongs to one process."""

    def forked(self) -> None:
        """Called in a child. Other threads, which the child does not have, may have held any lock."""


_owned: Final[weakref.WeakSet[Forked]] = weakref.WeakSet()


def follow(owned: Forked) -> None:
    """From now on its children let go of it."""
    _owned.add(owned)


def _in_child() -> None:
    for owned in list(_owned):
        owned.forked()


os.register_at_fork(after_in_child=_in_child)
