"""How sessions begin, and what happens where many begin, or say much, at once."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from modelmora.errors import (
    AddressInUse,
    MalformedRequest,
    ModelMoraError,
    PeerGone,
    QuotaExceeded,
    WorkerUnavailable,
)
from modelmora.tensors import Listener, Quota, Session, Terms, connect
from modelmora.tensors.connection import Connection
from modelmora.v1.sessions_pb2 import CloseArena, Hello, Message
from modelmora.wire.status import from_rpc
from tests.support.shared_memory import sessions
from tests.support.waiting import until

DEADLINE_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    with Listener(path, Terms(quota=Quota(2**20, 4), sessions=3)) as listener:
        yield listener


def test_sessions_have_names_that_nobody_guesses(listener: Listener) -> None:
    with connect(listener.path) as mine, listener.accept(DEADLINE_S) as theirs:
        assert mine.token == theirs.token
        assert listener.find(mine.token) is theirs
        assert listener.find("ü") is None
        assert listener.find("") is None


@pytest.mark.req("FR-011")
def test_no_more_sessions_than_may_be_are_open_however_many_come_at_once(listener: Listener) -> None:
    opened: list[Session] = []
    refused: list[ModelMoraError] = []
    together = threading.Barrier(40)

    def come() -> None:
        together.wait(DEADLINE_S)
        try:
            opened.append(connect(listener.path, timeout_s=DEADLINE_S))
        except ModelMoraError as error:
            refused.append(error)

    threads = [threading.Thread(target=come) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(opened) == 3
    assert {type(error) for error in refused} == {QuotaExceeded}
    for session in opened:
        session.close()


def test_more_than_the_backlog_come_at_once_and_none_is_told_that_nobody_is_there(path: Path) -> None:
    with Listener(path, Terms(quota=Quota(2**20, 4), sessions=400)), ExitStack() as stack:
        failed: list[Exception] = []
        together = threading.Barrier(200)

        def come() -> None:
            together.wait(DEADLINE_S)
            try:
                stack.push(connect(path, timeout_s=DEADLINE_S))
            except ModelMoraError as error:
                failed.append(error)

        threads = [threading.Thread(target=come) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert failed == []


def test_who_says_nothing_keeps_nobody_out_for_long(listener: Listener) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(50)]
    for each in silent:
        each.connect(str(listener.path))
    with connect(listener.path, timeout_s=DEADLINE_S) as session:
        assert not session.over
    for each in silent:
        each.close()


def test_sessions_that_nobody_accepts_are_bounded_though_their_clients_are_gone(listener: Listener) -> None:
    for _ in range(3):
        connect(listener.path).close()
    until(lambda: not listener.sessions)
    with pytest.raises(QuotaExceeded):
        connect(listener.path)
    listener.accept(DEADLINE_S).close()
    connect(listener.path).close()


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (Message(close_arena=CloseArena(arena=1)), MalformedRequest),
        (Message(hello=Hello(version=99)), MalformedRequest),
    ],
    ids=["no greeting", "another version"],
)
def test_who_greets_wrong_is_told_so(listener: Listener, first: Message, error: type[ModelMoraError]) -> None:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.connect(str(listener.path))
    connection = Connection(raw)
    connection.send(first)
    came = connection.receive(DEADLINE_S)
    assert came
    assert isinstance(from_rpc(came[0].refusal), error)
    connection.close()
    assert listener.sessions == []


def test_a_path_is_one_listeners_and_free_again_after_it(path: Path) -> None:
    with Listener(path), pytest.raises(AddressInUse):
        Listener(path)
    assert not path.exists()
    with pytest.raises(WorkerUnavailable, match="nobody shares memory"):
        connect(path)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(path))
    left.close()
    with Listener(path) as listener, connect(path) as session:
        assert listener.accept(DEADLINE_S).token == session.token
    for _ in range(2):
        with pytest.raises(PeerGone, match="was closed"):
            listener.accept(DEADLINE_S)


def test_both_sides_say_much_at_once_and_both_are_heard() -> None:
    """Each side's thread has more to say than the socket holds, and must read nevertheless."""
    with sessions(Quota(bytes=16 * 2**20, arenas=16)) as (one, other):
        counts = {id(one): 0, id(other): 0}

        def give(session: Session) -> None:
            for number in range(1500):
                session.send(np.full(3, number), timeout_s=DEADLINE_S)

        def take(session: Session) -> None:
            held = []
            for _ in range(1500):
                held.append(session.receive(DEADLINE_S))
                if len(held) == 200:
                    held.clear()  # all are released at one moment
                counts[id(session)] += 1

        threads = [threading.Thread(target=act, args=(side,)) for act in (give, take) for side in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE_S)
        assert set(counts.values()) == {1500}
        assert not one.over
        assert not other.over
