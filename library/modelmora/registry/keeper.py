"""The thread that unloads what has expired, and counts the handles that the garbage collector gave back.

It begins with the first load, sleeps until the next model expires, and ends when its registry is closed, or dropped,
and nothing is left in it. A child of a fork has none until it needs one.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from modelmora.registry.entries import Entry
from modelmora.registry.ledger import Ledger

_LONGEST_WAIT_S: Final = 3600.0
Retire: TypeAlias = Callable[[Sequence[Entry]], None]


class Keeper:
    """Of one ledger. It does not know the registry, so that this can be dropped."""

    def __init__(self, ledger: Ledger, retire: Retire) -> None:
        self.ledger = ledger
        self._retire = retire
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def release(self, entry: Entry) -> None:
        """Gives a reference back."""
        if self.ledger.release(entry):
            self.wake()

    def wake(self) -> None:
        """Has it look at everything; starts it if it does not run."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="modelmora registry keeper", daemon=True)
                self._thread.start()
        self.ledger.wake()

    def sweep(self) -> float:
        """Unloads what has expired; in how many seconds the next will have."""
        leaving, wait_s = self.ledger.expire()
        self._retire(leaving)
        return wait_s

    def after_fork(self) -> None:
        """In the child."""
        self._starting = threading.Lock()

    def _run(self) -> None:
        wait_s = self.sweep()
        while not self.ledger.over:
            self.ledger.wait(min(wait_s, _LONGEST_WAIT_S))
            wait_s = self.sweep()
