"""Tensors between real processes: nothing is copied, and nothing is left when one of them is killed."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from modelmora.errors import PeerGone, QuotaExceeded
from modelmora.tensors import Listener, Quota, Session, Terms
from tests.support.memory_maps import arenas_mapped, open_files
from tests.support.tensor_process import Refused, TensorProcess
from tests.support.waiting import until

DEADLINE_S = 30.0
LARGE = 100_000_000


pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]  # of several processes each


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    with Listener(path) as listener:
        yield listener


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder to which every user gets, as to none of pytest's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def nothing_in_dev_shm() -> bool:
    """No arena has a name, so none can be left there, whoever is killed."""
    return not [each for each in Path("/dev/shm").iterdir() if "modelmora" in each.name]


def connected(process: TensorProcess, listener: Listener) -> Session:
    """The session of a process with this one, as this one sees it; there it is called `session`."""
    process.ask(f"session = connect({str(listener.path)!r})")
    return listener.accept(DEADLINE_S)


# ---------------------------------------------------------------------------------------------------- one memory


@pytest.mark.req("US3", "US3-IT", "US3-AS1", "FR-005", "ENT-6", "US4-IT")
def test_100_mb_are_handed_over_by_a_handle_and_seen_without_a_copy(path: Path) -> None:
    with TensorProcess() as producer, TensorProcess() as consumer:
        consumer.ask(f"listener = Listener({str(path)!r})")
        producer.ask(f"session = connect({str(path)!r}); tensor = session.put(np.full({LARGE}, 3, np.uint8))")
        consumer.ask("session = listener.accept(30); gc.collect(); before = private_dirty()")
        sent = "_, [handle] = session._lending.lend([tensor.numpy()]); session.send(tensor); handle.ByteSize()"
        assert producer.ask(sent) < 1024
        assert consumer.ask("got = session.receive(30); got.numpy().sum(dtype=np.int64)") == 3 * LARGE
        assert consumer.ask("private_dirty() - before") < LARGE / 20
        assert consumer.ask("private_dirty(of_arenas=True)") == 0
        assert consumer.ask("arenas_mapped()") >= LARGE
        producer.ask("tensor.numpy()[12_345_678] = 200")
        assert consumer.ask("got.numpy()[12_345_678]") == 200


@pytest.mark.req("US4", "US4-IT", "US4-AS2", "US4-AS3", "FR-007")
def test_no_framework_of_the_consumer_copies(path: Path) -> None:
    with TensorProcess() as producer, TensorProcess() as consumer:
        consumer.ask(f"listener = Listener({str(path)!r})")
        producer.ask(f"session = connect({str(path)!r}); session.send(np.ones({LARGE // 4}, np.float32))")
        consumer.ask("got = listener.accept(30).receive(30); before = private_dirty()")
        assert consumer.ask("np.asarray(got).max() + np.from_dlpack(got).max() + np.asarray(got)[::2].T.max()") == 3
        assert consumer.ask("private_dirty() - before") < LARGE / 20
        pytest.importorskip("torch")
        consumer.ask("import torch; torch.ones(4).sum(); before = private_dirty()")
        assert consumer.ask("float(torch.from_dlpack(got).max())") == 1
        assert consumer.ask("private_dirty() - before") < LARGE / 20


@pytest.mark.req("EDGE-5", "ENT-4")
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layout_goes_with_the_tensor(path: Path, order: str) -> None:
    with TensorProcess() as producer, TensorProcess() as consumer:
        consumer.ask(f"listener = Listener({str(path)!r})")
        producer.ask(f"session = connect({str(path)!r}); array = np.arange(24.0).reshape((4, 6), order={order!r})")
        producer.ask("tensor = session.put(array); session.send(tensor); session.send(tensor.numpy()[1:, ::2])")
        consumer.ask("session = listener.accept(30)")
        strides = [48, 8] if order == "C" else [8, 32]
        whole = consumer.ask("got = session.receive(30); [list(got.shape), list(got.strides), got.numpy().tolist()]")
        array = np.arange(24.0).reshape((4, 6), order="C" if order == "C" else "F")
        assert whole == [[4, 6], strides, array.tolist()]
        part = consumer.ask("got = session.receive(30); [list(got.strides), got.numpy().tolist()]")
        assert part == [[strides[0], 2 * strides[1]], array[1:, ::2].tolist()]


# ---------------------------------------------------------------------------------------------------- kill -9


CHILDS_WORK = {
    "that lends": ("session.send(np.ones(10_000_000, np.uint8))", ""),
    "that holds what was lent": ("held = session.receive(30); held.numpy()[0]", ""),
    "that writes": (
        "tensor = session.empty(10_000_000, np.uint8); session.send(tensor)",
        "while True: tensor.numpy()[:] += 1",
    ),
    "that makes arenas": ("", "while True: session.empty(1_000_000 + np.random.randint(50_000_000), np.uint8)"),
}


@pytest.mark.req("US3-AS3", "IMP-2", "FR-014")
@pytest.mark.parametrize(("first", "endless"), CHILDS_WORK.values(), ids=CHILDS_WORK)
def test_a_process_is_killed_and_the_other_is_told_and_keeps_nothing(
    listener: Listener, first: str, endless: str
) -> None:
    files, memory = open_files(), arenas_mapped()
    with TensorProcess() as process:
        session = connected(process, listener)
        session.send(np.ones(10_000_000, np.uint8))
        process.ask(first)
        process.tell(endless)
        process.kill()
    assert session.wait(DEADLINE_S)
    taken(session)
    assert session.lent == 0
    assert (session.own_bytes, session.foreign_bytes) == (0, 0)
    assert listener.sessions == []
    until(lambda: (open_files(), arenas_mapped()) == (files, memory))
    assert nothing_in_dev_shm()


def taken(session: Session) -> int:
    """How many it had handed over before its end; they are its receiver's, and let go of here."""
    for number in range(1000):
        try:
            session.receive(DEADLINE_S)
        except PeerGone:
            return number
    return 1000


@pytest.mark.req("US3-AS3", "IMP-2")
def test_what_is_seen_of_a_killed_process_stays_as_long_as_it_is_seen(listener: Listener) -> None:
    memory = arenas_mapped()
    with TensorProcess() as process:
        session = connected(process, listener)
        process.ask("session.send(np.full(10_000_000, 5, np.uint8))")
        got = session.receive(DEADLINE_S)
        process.kill()
    assert session.wait(DEADLINE_S)
    row = got.numpy()[5_000_000:]
    got.release()
    assert row.sum(dtype=int) == 5 * 5_000_000
    assert arenas_mapped() > memory
    del row
    until(lambda: arenas_mapped() == memory)


@pytest.mark.req("IMP-2", "US3-AS3")
def test_who_listens_is_killed_and_its_clients_hear_of_it_and_its_next_start_finds_nothing(path: Path) -> None:
    with TensorProcess() as client:
        with TensorProcess() as killed:
            killed.ask(f"listener = Listener({str(path)!r})")
            client.ask(f"session = connect({str(path)!r}); session.send(np.ones(1_000_000))")
            killed.ask("session = listener.accept(30); held = session.receive(30); session.send(np.ones(1_000_000))")
            client.tell("session.receive(30); session.receive(30)")
        with pytest.raises(Refused, match="PeerGone"):
            client.answer()
        assert client.ask("gc.collect(); until(lambda: not arenas_mapped()); arenas_mapped()") == 0
        assert path.exists()  # its socket, of which nobody is behind it
        with TensorProcess() as next_one:
            next_one.ask(f"listener = Listener({str(path)!r})")
            client.ask(f"session = connect({str(path)!r}); session.send(np.ones(3))")
            assert next_one.ask("session = listener.accept(30); session.receive(30).numpy().sum()") == 3
    assert nothing_in_dev_shm()


@pytest.mark.req("US3-AS3", "IMP-2")
def test_nothing_grows_over_many_processes_that_are_killed(listener: Listener) -> None:
    seen = []
    for number in range(6):
        with TensorProcess() as process:
            session = connected(process, listener)
            process.ask(f"session.send(np.ones({1_000_000 * (number % 3 + 1)}, np.uint8))")
            session.send(session.receive(DEADLINE_S).numpy())
            process.tell("while True: session.send(session.receive(30).numpy())")
        assert session.wait(DEADLINE_S)
        del session
        until(lambda: not arenas_mapped())
        seen.append(open_files())
    assert seen[-1] <= seen[1]


# ---------------------------------------------------------------------------------------------------- fork


@pytest.mark.req("FR-014", "IMP-2")
def test_a_fork_has_the_arrays_but_not_the_session_and_does_not_hide_the_end_of_its_parent(listener: Listener) -> None:
    with TensorProcess() as process:
        session = connected(process, listener)
        fork = """
import multiprocessing, warnings
warnings.simplefilter("ignore")
tensor = session.put(np.full(1000, 4, np.uint8))
def told(queue):
    said = []
    for act in (lambda: session.put(np.ones(1)), lambda: session.receive(30), lambda: session.send(tensor)):
        try:
            act()
        except errors.SharedMemoryUnavailable as error:
            said.append(error.message)
    queue.put([said, int(tensor.numpy().sum()), session.close()])
    time.sleep(300)
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=told, args=(queue,))
child.start()
[*queue.get(timeout=30), child.pid]
"""
        said, total, closed, child = process.ask(fork)
        assert len(said) == 3
        assert all("was forked from" in message for message in said)
        assert (total, closed) == (4000, None)
        process.ask("session.send(tensor)")
        assert session.receive(DEADLINE_S).numpy().sum() == 4000  # its parent's session is whole
        process.kill()
        assert session.wait(DEADLINE_S)  # although the child lives
        os.kill(child, 9)


@pytest.mark.req("IMP-2")
def test_a_fork_of_who_listens_does_not_keep_its_place(path: Path) -> None:
    with TensorProcess() as killed:
        killed.ask(f"listener = Listener({str(path)!r})")
        child = killed.ask("child = os.fork()\nif not child:\n    listener.close(); time.sleep(300)\nchild")
        assert path.exists()  # the child's close is not its parent's
        with TensorProcess() as client:
            client.ask(f"session = connect({str(path)!r})")
            killed.kill()
            client.ask("session.wait(30) or 1 / 0")
            with Listener(path) as listener:
                connected(client, listener)
        os.kill(child, 9)


# ---------------------------------------------------------------------------------------------------- others


@pytest.mark.req("FR-014")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_mode_of_the_socket_says_who_may_connect_and_then_no_right_is_needed(everybodys: Path) -> None:
    path = everybodys / "s"
    become = "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.umask(0o077)"
    with TensorProcess() as stranger:
        stranger.ask(become)
        with Listener(path), pytest.raises(Refused, match=r"WorkerUnavailable.*Permission denied"):
            stranger.ask(f"connect({str(path)!r})")
        with Listener(path, Terms(mode=0o666)) as listener:
            session = connected(stranger, listener)
            assert session.peer.uid == 65534
            assert session.peer.pid == stranger.pid
            session.send(np.full(1_000_000, 2, np.uint8))
            assert stranger.ask("got = session.receive(30); got.numpy().sum()") == 2_000_000
            stranger.ask("session.send(np.full(1_000_000, 3, np.uint8))")
            assert session.receive(DEADLINE_S).numpy().sum() == 3_000_000
            # What it has of the other's memory are descriptors and mappings; no name leads there.
            with pytest.raises(Refused, match=r"PermissionError|FileNotFoundError"):
                stranger.ask(f"os.listdir('/proc/{os.getpid()}/fd')")


@pytest.mark.req("FR-014")
def test_sessions_cannot_reach_each_other_and_the_end_of_one_frees_only_its_own(listener: Listener) -> None:
    with TensorProcess() as one, TensorProcess() as other:
        first, second = connected(one, listener), connected(other, listener)
        one.ask("lease, [handle] = session.lend([np.full(1000, 9, np.uint8)])")
        text = one.ask("handle.SerializeToString().hex()")
        lease = one.ask("lease")
        # A handle of the one says nothing in the session of the other, whoever passes it on.
        forged = f"""
from modelmora.v1.types_pb2 import Tensor
from modelmora.v1.sessions_pb2 import Lend, Message
session._say(Message(lend=Lend(lease={lease}, tensor=Tensor.FromString(bytes.fromhex({text!r})))))
"""
        other.ask(forged)
        assert second.wait(DEADLINE_S)
        assert not first.over
        other.ask(f"session = connect({str(listener.path)!r})")
        third = listener.accept(DEADLINE_S)
        other.ask("session.send(np.full(1000, 8, np.uint8))")
        theirs = third.receive(DEADLINE_S)
        one.ask("session.send(np.full(1000, 7, np.uint8))")
        got = first.receive(DEADLINE_S)
        one.kill()
        assert first.wait(DEADLINE_S)
        assert not third.over
        assert (got.numpy().max(), theirs.numpy().max()) == (7, 8)
        other.ask("session.send(np.full(1000, 6, np.uint8))")
        assert third.receive(DEADLINE_S).numpy().max() == 6
        assert got.numpy().min() == 7


@pytest.mark.req("FR-011")
def test_a_session_gets_no_more_than_its_quota_and_others_are_not_touched(path: Path) -> None:
    quota = Quota(bytes=2_500_000, arenas=8)
    with Listener(path, Terms(quota=quota)) as listener, TensorProcess() as one, TensorProcess() as other:
        connected(one, listener)
        connected(other, listener)
        one.ask("held = [session.empty(1_000_000, np.uint8) for _ in range(2)]")
        with pytest.raises(Refused, match=r"QuotaExceeded.*2500000 bytes"):
            one.ask("held.append(session.empty(1_000_000, np.uint8))")
        assert other.ask("held = [session.empty(1_000_000, np.uint8) for _ in range(2)]; len(held)") == 2
        assert one.ask("held.pop(); held.append(session.empty(1_000_000, np.uint8)); len(held)") == 2


@pytest.mark.req("FR-011")
def test_who_never_releases_harms_only_itself(path: Path) -> None:
    quota = Quota(bytes=40_000_000, arenas=8)
    with Listener(path, Terms(quota=quota)) as listener, TensorProcess() as greedy, TensorProcess() as other:
        session, beside = connected(greedy, listener), connected(other, listener)
        greedy.tell("held = []\nwhile True: held.append(session.receive(30))")
        sent = _until_refused(session)
        assert sent == 256
        assert session.own_bytes <= quota.bytes
        beside.send(np.ones(1_000_000, np.uint8))
        assert other.ask("session.receive(30).numpy().sum()") == 1_000_000
        greedy.kill()
        assert session.wait(DEADLINE_S)
        assert session.own_bytes == 0


def _until_refused(session: Session) -> int:
    array: Any = np.ones(1000, np.uint8)
    for number in range(1000):
        try:
            session.send(array, timeout_s=0.05)
        except QuotaExceeded:
            return number
    return 1000


def test_who_is_stopped_in_the_middle_keeps_nobody_waiting_for_ever(listener: Listener) -> None:
    with TensorProcess() as process, TensorProcess() as other:
        session, beside = connected(process, listener), connected(other, listener)
        os.kill(process.pid, 19)
        assert _until_refused_or_gone(session)
        beside.send(np.ones(3))
        assert other.ask("session.receive(30).numpy().sum()") == 3


def _until_refused_or_gone(session: Session) -> bool:
    try:
        for _ in range(1000):
            session.send(np.ones(1000, np.uint8), b"x" * 1000, timeout_s=0.05)
    except (QuotaExceeded, PeerGone):
        return True
    return False
