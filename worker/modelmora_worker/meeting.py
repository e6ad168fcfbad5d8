"""The place where callers of this machine find the worker: a gRPC socket and, beside it, one for shared memory.

A worker that replaces another comes to the same path while the other is still there. So each listens at names of its
own, and the path is a link to the newest that serves: who comes through it comes to one worker with both sockets.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from modelmora.errors import AddressInUse
from modelmora.tensors import Listener, Quota, Terms

_log = structlog.get_logger(__name__)
_MOST_ARENAS: Final = 64
TENSORS: Final = ".tensors"


@dataclass(frozen=True, slots=True)
class Meeting:
    """At a path, for those that may connect."""

    path: Path
    mode: int

    @property
    def own(self) -> Path:
        """The gRPC socket of this process."""
        return self.path.with_name(f"{self.path.name}.{os.getpid()}")

    @property
    def address(self) -> str:
        """As gRPC names it."""
        return f"unix:{self.own}"

    def listener(self, quota_bytes: int, sessions: int) -> Listener:
        """Takes the sessions that share memory.

        Raises:
            AddressInUse: the path is too long, or its folder is not to be written.
        """
        terms = Terms(Quota(quota_bytes, _MOST_ARENAS), sessions=sessions, mode=self.mode)
        return Listener(f"{self.own}{TENSORS}", terms)

    def open(self) -> None:
        """From now on callers come here.

        Raises:
            AddressInUse: the folder is not to be written.
        """
        try:
            self.own.chmod(self.mode)
            self._lead_to(self.own)
        except OSError as error:
            raise AddressInUse(
                f"callers cannot be led to {self.path}: {error.strerror or error}",
                endpoint=str(self.path),
                remedy="name a path in a folder that the worker may write",
            ) from error
        _log.info("callers of this machine find the worker", socket=str(self.path))

    def leave(self) -> None:
        """What leads here leads to the worker that has been there longest from now on, or is taken away."""
        if self.path.is_symlink() and self.path.readlink() == Path(self.own.name):
            if staying := [each for each, lives in self.others() if lives and each.suffix != TENSORS]:
                self._lead_to(min(staying, key=_made_at))
            else:
                self.path.unlink(missing_ok=True)
        self.own.unlink(missing_ok=True)

    def others(self) -> Iterator[tuple[Path, bool]]:
        """The sockets of other processes for this path, and whether the process lives."""
        for each in self.path.parent.glob(f"{self.path.name}.[0-9]*"):
            pid = each.name.removeprefix(f"{self.path.name}.").removesuffix(TENSORS)
            if pid.isdigit() and pid != self.own.suffix.removeprefix("."):
                yield each, Path(f"/proc/{pid}").exists()

    def _lead_to(self, socket: Path) -> None:
        link = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(socket.name)
        link.replace(self.path)


def _made_at(socket: Path) -> float:
    try:
        return socket.stat().st_mtime
    except FileNotFoundError:  # it leaves at this very moment, too
        return math.inf


@contextmanager
def tidied(meeting: Meeting | None) -> Iterator[None]:
    """Leaves at the end; what a worker that was killed left behind at the path goes first."""
    if meeting:
        for left in [each for each, lives in meeting.others() if not lives]:
            left.unlink(missing_ok=True)
    try:
        yield
    finally:
        if meeting:
            meeting.leave()
