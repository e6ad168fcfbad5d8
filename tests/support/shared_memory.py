"""Two ends of a session in one process, for tests; a process that is not ours is in the integration tests."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelmora.tensors import Quota, Session
from modelmora.tensors.connection import Connection

QUOTA = Quota(bytes=4 * 2**20, arenas=4)


def connections() -> tuple[Connection, Connection]:
    """Two that are connected."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Connection(one), Connection(other)


@contextmanager
def sessions(quota: Quota = QUOTA, *, folder: Path | None = None) -> Iterator[tuple[Session, Session]]:
    """Both ends of one, greeted already."""
    one, other = connections()
    with Session(one, token="t", quota=quota, folder=folder) as mine, Session(other, token="t", quota=quota) as theirs:
        yield mine, theirs
