"""What a fork, and the end of the interpreter, do to the registries of this process.

A child of a fork has the models that its parent had loaded, in memory that both share until one of them writes, and the
handles as they were. Of the parent's threads it has only the one that forked: what the others were loading, it may load
itself; a handle that only they knew stays open. What lives on a GPU does not survive a fork: load that afterwards.
"""

import atexit
import os
import threading
import weakref
from typing import Final, Protocol


class Followed(Protocol):
    """A registry."""

    def close(self) -> None: ...
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


class _Process:
    """All registries that somebody still has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registries: weakref.WeakSet[Followed] = weakref.WeakSet()
        self._forking: list[Followed] = []

    def follow(self, registry: Followed) -> None:
        with self._lock:
            self._registries.add(registry)

    def before_fork(self) -> None:
        self._lock.acquire()
        self._forking = list(self._registries)
        for registry in self._forking:
            registry.before_fork()

    def after_fork_in_parent(self) -> None:
        forked, self._forking = self._forking, []
        for registry in forked:
            registry.after_fork_in_parent()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        forked, self._forking = self._forking, []
        for registry in forked:
            registry.after_fork_in_child()

    def close(self) -> None:
        with self._lock:
            registries = list(self._registries)
        for registry in registries:
            registry.close()


_process: Final = _Process()
follow: Final = _process.follow

os.register_at_fork(
    before=_process.before_fork,
    after_in_parent=_process.after_fork_in_parent,
    after_in_child=_process.after_fork_in_child,
)
atexit.register(_process.close)
