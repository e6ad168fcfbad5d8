"""What a client can do that does not keep to the protocol: it loses its session, and nobody else notices."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmora.tensors import connect
from modelmora.v1.sessions_pb2 import Lend, Message, OpenArena
from modelmora.v1.types_pb2 import DATA_TYPE_UINT8, Region, Tensor
from tests.support.tensor_fuzzing import SIZE, by_hand, healthy, over_sessions, say, sealed
from tests.support.tensor_process import TensorProcess
from tests.support.waiting import until

DEADLINE_S = 30.0


pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # of several processes each


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def listening(path: str) -> Iterator[TensorProcess]:
    """A process that says the sum of whatever is handed to it."""
    with TensorProcess() as process:
        process.ask("from tests.support.tensor_fuzzing import answer_sums")
        process.ask(f"listener = Listener({path!r}, Terms(Quota(2**26, 64), sessions=32), begun=answer_sums)")
        yield process


@pytest.mark.req("FR-014", "ENT-4")
def test_whatever_a_client_says_nobody_else_notices_and_nothing_is_left(listening: TensorProcess, path: str) -> None:
    healthy(path)
    until(lambda: listening.ask("len(listener.sessions)") == 0)
    before = listening.ask("gc.collect(); open_files()")
    over_sessions(path, lambda: healthy(path)).run(300)
    until(lambda: listening.ask("len(listener.sessions)") == 0)
    assert listening.ask("gc.collect(); open_files()") <= before
    until(lambda: listening.ask("gc.collect(); arenas_mapped()") == 0)


@pytest.mark.req("FR-011")
def test_of_10_000_arenas_a_client_gets_as_many_as_its_quota_says(listening: TensorProcess, path: str) -> None:
    healthy(path)
    before = listening.ask("open_files()")
    fd, opened = sealed(), 0
    with by_hand(path) as raw:
        for number in range(1, 10_001):
            assert say(raw, Message(open_arena=OpenArena(arena=number, size_bytes=SIZE)).SerializeToString(), fd)
            opened += not Message.FromString(raw.recv(65536)).arena_opened.HasField("error")
        assert opened == 64
        assert listening.ask("open_files()") <= before + 64 + 3
        healthy(path)
    os.close(fd)
    until(lambda: listening.ask("open_files()") <= before)
    with connect(path) as session:
        asked = """
held = []
session = connect(PATH)
for _ in range(10_000):
    try:
        held.append(session.empty(700_000, np.uint8))
    except errors.QuotaExceeded:
        pass
len(held)
""".replace("PATH", repr(path))
        with TensorProcess() as greedy:
            assert greedy.ask(asked) == math.floor(2**26 / 700_000) or greedy.ask("len(held)") >= 64
            assert greedy.ask("session.own_bytes") <= 2**26
            assert greedy.ask("open_files()") < 100
        assert not session.over
    healthy(path)


@pytest.mark.req("FR-011")
def test_who_hands_over_without_end_is_cut_off_though_nobody_takes_any(path: str) -> None:
    fd = sealed()
    with TensorProcess() as idle:
        idle.ask(f"listener = Listener({path!r})")
        with by_hand(path) as raw:
            assert say(raw, Message(open_arena=OpenArena(arena=1, size_bytes=SIZE)).SerializeToString(), fd)
            raw.recv(65536)
            tensor = Tensor(datatype=DATA_TYPE_UINT8, shape=[8], region=Region(arena=1))
            lends = (Message(lend=Lend(lease=lease, tensor=tensor)).SerializeToString() for lease in range(1, 10_000))
            assert not all(say(raw, data) for data in lends)
        assert idle.ask("session = listener.accept(30); session.wait(30)") is True
        assert idle.ask("session._received.qsize()") == 257  # 256, and the word that no more will come
    os.close(fd)


@pytest.mark.req("EDGE-4")
def test_a_sealed_arena_cannot_be_cut_short_by_anybody(path: str) -> None:
    with TensorProcess() as owner:
        owner.ask(f"listener = Listener({path!r})")
        owner.ask(
            f"session = connect({path!r}); tensor = session.put(np.ones(10)); fd = session._lending.pool._arenas[0].fd"
        )
        tried = "tried = []\nfor act in (lambda: os.ftruncate(fd, 0), lambda: os.truncate(f'/proc/self/fd/{fd}', 0)):\n"
        tried += "    try:\n        act()\n    except PermissionError:\n        tried.append(1)\nlen(tried)"
        assert owner.ask(tried) == 2
        assert owner.ask("tensor.numpy().sum()") == 10


@pytest.mark.req("EDGE-4", "FR-014")
def test_who_cuts_its_own_unsealed_file_short_ends_only_who_reads_it(listening: TensorProcess, path: str) -> None:
    """Promised to nobody: a tmpfs cannot be sealed. What reads such files must be a process that may end."""
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    os.posix_fallocate(fd, 0, SIZE)
    with TensorProcess() as reader:
        other = f"{path}2"
        reader.ask(f"listener = Listener({other!r})")
        with by_hand(other) as raw:
            say(raw, Message(open_arena=OpenArena(arena=1, size_bytes=SIZE)).SerializeToString(), fd)
            assert not Message.FromString(raw.recv(65536)).arena_opened.HasField("error")
            tensor = Tensor(datatype=DATA_TYPE_UINT8, shape=[SIZE], region=Region(arena=1))
            say(raw, Message(lend=Lend(lease=1, tensor=tensor)).SerializeToString())
            assert reader.ask("got = listener.accept(30).receive(30); got.numpy().sum()") == 0
            os.ftruncate(fd, 0)
            reader.tell("got.numpy().sum()")
            assert reader.ended_by() is signal.SIGBUS
    os.close(fd)
    healthy(path)


@pytest.mark.req("ENT-6")
def test_who_writes_while_the_other_reads_is_seen_element_by_element(path: str) -> None:
    """What is promised: each aligned element is old or new; the whole is as of no one moment."""
    with TensorProcess() as producer, TensorProcess() as consumer:
        consumer.ask(f"listener = Listener({path!r})")
        producer.ask(f"session = connect({path!r}); tensor = session.put(np.zeros(500_000)); session.send(tensor)")
        consumer.ask("got = listener.accept(30).receive(30)")
        producer.tell(
            "end = time.monotonic() + 1\nwhile time.monotonic() < end: tensor.numpy()[:] = 7; tensor.numpy()[:] = 0"
        )
        seen = "seen = set()\nfor _ in range(100): seen |= set(np.unique(got.numpy()).tolist())\nsorted(seen)"
        assert set(consumer.ask(seen)) <= {0.0, 7.0}
        producer.answer()
        producer.ask("tensor.numpy()[:] = 7")
        assert consumer.ask("np.unique(got.numpy()).tolist()") == [7]
