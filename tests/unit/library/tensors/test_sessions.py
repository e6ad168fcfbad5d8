"""Two ends of a session: what one puts, the other sees; what goes, comes back; what is wrong, is refused."""

import fcntl
import gc
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modelmora.errors import InvalidRequest, MalformedRequest, PeerGone, QuotaExceeded
from modelmora.tensors import Quota, Session, SharedTensor, mappings, memory
from modelmora.tensors.lending import MAX_HANDED
from modelmora.v1.sessions_pb2 import ArenaOpened, Lend, Message, OpenArena
from modelmora.v1.types_pb2 import DATA_TYPE_UINT8, Region, SharedMemory, Tensor
from tests.support.shared_memory import QUOTA, connections, sessions
from tests.support.waiting import until

DEADLINE_S = 10.0
ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(24, dtype=np.int64).reshape(4, 6)[::2, 1::3],
    "backwards": np.arange(5)[::-1],
    "scalar": np.array(3, np.uint8),
    "nothing": np.zeros((0, 4)),
    "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
    "float8": np.arange(4).astype(ml_dtypes.float8_e5m2),
    "big-endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
}


@pytest.mark.req("US3", "FR-005", "EDGE-5")
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_what_one_sends_the_other_sees(array: np.ndarray[Any, Any]) -> None:
    with sessions() as (mine, theirs):
        mine.send(array, b"name")
        got = theirs.receive(DEADLINE_S)
        assert got.tag == b"name"
        assert got.dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(got.numpy(), array)
        assert not got.writable
        assert got.numpy().flags.f_contiguous == array.flags.f_contiguous or array.ndim < 2


@pytest.mark.req("US3-AS1", "ENT-6")
def test_it_is_one_memory_and_no_copy() -> None:
    with sessions() as (mine, theirs):
        tensor = mine.empty((1000,), np.int32)
        tensor.numpy()[:] = 1
        mine.send(tensor)
        got = theirs.receive(DEADLINE_S)
        tensor.numpy()[500] = 7
        assert got.numpy()[500] == 7


@pytest.mark.req("EDGE-5")
def test_a_slice_of_a_tensor_is_handed_over_where_it_is() -> None:
    with sessions() as (mine, theirs):
        tensor = mine.put(np.arange(24).reshape(4, 6))
        before = mine.own_bytes
        part = tensor.numpy()[1:, ::2].T
        mine.send(part)
        got = theirs.receive(DEADLINE_S)
        assert got.strides == part.strides
        tensor.numpy()[1, 2] = -1
        assert got.numpy()[1, 0] == -1
        assert mine.own_bytes == before


@pytest.mark.req("US4-AS1", "US4-AS2", "FR-007")
def test_numpy_sees_the_memory_itself() -> None:
    with sessions() as (mine, _):
        tensor = mine.empty((3, 4))
        array = tensor.numpy()
        assert np.shares_memory(np.asarray(tensor), array)
        np.from_dlpack(tensor)[1, 1] = 5  # type: ignore[arg-type]  # DLPack is a protocol
        assert array[1, 1] == 5


@pytest.mark.req("US4-AS3", "FR-007")
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, ml_dtypes.bfloat16])
def test_pytorch_sees_the_memory_itself(dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    with sessions() as (mine, theirs):
        mine.send(np.arange(6).reshape(2, 3).astype(dtype))
        got = theirs.receive(DEADLINE_S)
        seen = torch.from_dlpack(got)
        assert seen.data_ptr() == mappings.address(got.numpy())
        assert tuple(seen.shape) == (2, 3)
        if dtype is ml_dtypes.bfloat16:
            assert seen.view(torch.bfloat16)[1, 2] == 5


def test_who_writes_what_is_not_to_be_written_writes_a_copy() -> None:
    with sessions() as (mine, theirs):
        tensor = mine.put(np.zeros(10))
        mine.send(tensor)
        got = theirs.receive(DEADLINE_S)
        with pytest.raises(ValueError, match="read-only"):
            got.numpy()[0] = 1
        np.from_dlpack(got)[0] = 1  # type: ignore[arg-type]  # as above
        assert tensor.numpy()[0] == 0


@pytest.mark.req("US3-AS3", "FR-014")
def test_memory_is_free_again_when_the_other_side_has_let_go_of_the_last_array() -> None:
    with sessions() as (mine, theirs):
        mine.send(np.zeros(10))
        got = theirs.receive(DEADLINE_S)
        row = got.numpy()[3:]
        assert (mine.lent, theirs.borrowed) == (1, 1)
        got.release()
        assert theirs.borrowed == 1
        del row, got
        gc.collect()
        until(lambda: mine.lent == 0)
        assert theirs.borrowed == 0
        with mine.put(np.zeros(1)) as tensor:
            assert tensor.shape == (1,)
        with pytest.raises(InvalidRequest, match="released"):
            tensor.numpy()


def test_a_place_comes_back_to_its_owner_and_is_used_again() -> None:
    with sessions() as (mine, theirs):
        for number in range(50):
            mine.send(np.full(QUOTA.bytes // 3, number, np.uint8))
            with theirs.receive(DEADLINE_S) as got:
                assert got.numpy()[-1] == number
            until(lambda: mine.lent == 0)
        assert mine.own_bytes <= QUOTA.bytes


@pytest.mark.req("FR-011")
def test_the_other_side_refuses_what_is_above_its_own_quota() -> None:
    one, other = connections()
    large = Quota(bytes=16 * 2**20, arenas=64)
    with Session(one, token="t", quota=large) as mine, Session(other, token="t", quota=QUOTA) as theirs:
        with pytest.raises(QuotaExceeded, match=str(QUOTA.bytes)):
            mine.put(np.zeros(QUOTA.bytes + 1, np.uint8))
        mine.send(np.ones(3))
        assert theirs.receive(DEADLINE_S).numpy().sum() == 3


def test_no_more_is_handed_over_than_the_other_side_releases() -> None:
    with sessions() as (mine, theirs):
        for number in range(MAX_HANDED):
            mine.send(np.array([number]))
        with pytest.raises(QuotaExceeded, match="not released"):
            mine.send(np.array([0]), timeout_s=0.01)
        theirs.receive(DEADLINE_S).release()
        mine.send(np.array([0]), timeout_s=DEADLINE_S)


def test_who_waits_hears_that_nothing_came_or_that_the_other_side_is_gone() -> None:
    with sessions() as (mine, theirs):
        with pytest.raises(TimeoutError):
            theirs.receive(0.01)
        mine.send(np.ones(2))
        mine.close()
        assert theirs.wait(DEADLINE_S)
        assert theirs.receive(DEADLINE_S).numpy().sum() == 2
        for _ in range(2):
            with pytest.raises(PeerGone):
                theirs.receive(DEADLINE_S)
        for act in (lambda: theirs.put(np.ones(1)), lambda: theirs.lend([]), lambda: mine.send(np.ones(1))):
            with pytest.raises(PeerGone):
                act()


# ---------------------------------------------------------------------------------------------------- requests


def lent(mine: Session, array: np.ndarray[Any, Any]) -> tuple[Tensor, int]:
    lease, [message] = mine.lend([array])
    return message, lease


def test_what_is_lent_with_a_request_is_back_with_its_answer() -> None:
    with sessions() as (mine, theirs):
        message, lease = lent(mine, np.arange(5))
        theirs.borrow(lease)
        assert theirs.view(message).sum() == 10
        mine.give_back(lease)
        assert mine.lent == 0
        theirs.done(lease)
        assert theirs.borrowed == 0


def test_what_is_revoked_is_back_when_the_request_is_done_with_it() -> None:
    with sessions() as (mine, theirs):
        message, lease = lent(mine, np.arange(5))
        theirs.borrow(lease)
        array = theirs.view(message)
        mine.revoke(lease)
        until(lambda: not borrows(theirs, lease))
        with pytest.raises(InvalidRequest, match="revoked"):
            theirs.borrow(lease)
        assert mine.lent == 1
        assert array.sum() == 10
        theirs.done(lease)
        until(lambda: mine.lent == 0)


def borrows(session: Session, lease: int) -> bool:
    try:
        session.borrow(lease)
    except InvalidRequest:
        return False
    session.done(lease)
    return True


def test_what_was_never_used_is_back_at_once() -> None:
    with sessions() as (mine, theirs):
        _, lease = lent(mine, np.arange(5))
        mine.revoke(lease)
        until(lambda: mine.lent == 0)
        with pytest.raises(InvalidRequest):
            theirs.borrow(lease)


def test_the_other_side_writes_where_it_is_asked_to() -> None:
    with sessions() as (mine, theirs):
        tensor = mine.put(np.zeros(100, np.uint8))
        message, _ = lent(mine, tensor.numpy()[10:20])
        asked = SharedMemory(results_arena=message.region.arena, results_offset=message.region.offset, results_bytes=10)
        theirs.room(asked)[:] = 9
        assert tensor.numpy().tolist() == [0] * 10 + [9] * 10 + [0] * 80
        for wrong in (
            SharedMemory(results_arena=99, results_bytes=1),
            SharedMemory(results_arena=1, results_offset=2**63, results_bytes=2**63),
        ):
            with pytest.raises(InvalidRequest):
                theirs.room(wrong)


# ---------------------------------------------------------------------------------------------------- strangers


@pytest.mark.req("FR-014")
def test_a_handle_is_worth_nothing_in_another_session() -> None:
    with sessions() as (mine, _), sessions() as (_, other):
        message, _ = lent(mine, np.arange(5))
        with pytest.raises(InvalidRequest, match="no arena 1"):
            other.view(message)


def file_of(size: int, *, sealed: bool) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, memory._SEALS)
    return fd


def on_disk(size: int) -> int:
    fd = os.open("/", os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, size)
    return fd


@pytest.mark.parametrize(
    ("make", "said", "problem"),
    [
        (lambda: file_of(8192, sealed=True), 4096, "8192 bytes"),
        (lambda: file_of(4096, sealed=True), 0, "empty"),
        (lambda: os.open("/dev/null", os.O_RDWR), 4096, "no file without a name"),
        (lambda: os.open(__file__, os.O_RDONLY), 4096, "no file without a name"),
        (lambda: os.pipe()[0], 4096, "no file without a name"),
        (lambda: os.memfd_create("sparse", os.MFD_ALLOW_SEALING), 0, "empty"),
    ],
    ids=["smaller than said", "of nothing", "a device", "with a name", "a pipe", "empty"],
)
def test_an_arena_that_is_not_what_it_is_said_to_be_is_refused(
    make: Callable[[], int], said: int, problem: str
) -> None:
    one, other = connections()
    with Session(other, token="t", quota=QUOTA) as theirs:
        fd = make()
        one.send(Message(open_arena=OpenArena(arena=1, size_bytes=said)), fd)
        os.close(fd)
        answer = one.receive(DEADLINE_S)
        assert answer
        assert problem in answer[0].arena_opened.error.message
        assert theirs.foreign_bytes == 0
    one.close()


def test_an_arena_with_holes_or_that_may_be_cut_short_on_a_disk_is_refused() -> None:
    one, other = connections()
    with Session(other, token="t", quota=QUOTA):
        sparse = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
        os.ftruncate(sparse, 8192)
        fcntl.fcntl(sparse, fcntl.F_ADD_SEALS, memory._SEALS)
        one.send(Message(open_arena=OpenArena(arena=1, size_bytes=8192)), sparse)
        answer = one.receive(DEADLINE_S)
        assert answer
        assert "is missing" in answer[0].arena_opened.error.message
        os.close(sparse)
    one.close()


@pytest.mark.parametrize(
    "message",
    [
        Message(),
        Message(lend=Lend(lease=1, tensor=Tensor(datatype=DATA_TYPE_UINT8, shape=[1], region=Region(arena=5)))),
        Message(lend=Lend(lease=0, tensor=Tensor(datatype=DATA_TYPE_UINT8, shape=[1], region=Region(arena=5)))),
    ],
    ids=["nothing", "of no arena", "of no lease"],
)
def test_who_does_not_keep_to_the_protocol_loses_the_session(message: Message) -> None:
    one, other = connections()
    with Session(other, token="t", quota=QUOTA) as theirs:
        one.send(message)
        assert theirs.wait(DEADLINE_S)
        with pytest.raises(PeerGone):
            theirs.receive(DEADLINE_S)
    one.close()


def test_bytes_that_are_no_message_end_the_session_and_nothing_else() -> None:
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    from modelmora.tensors.connection import Connection  # noqa: PLC0415 - only here

    with Session(Connection(other), token="t", quota=QUOTA) as theirs:
        raw.send(b"\xff" * 100)
        assert theirs.wait(DEADLINE_S)
    raw.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_number_is_never_used_again_and_a_descriptor_that_nobody_asked_for_is_closed() -> None:
    one, other = connections()
    before = open_files()
    with Session(other, token="t", quota=QUOTA) as theirs:
        fd = file_of(4096, sealed=True)
        for expected in ("", "is not new"):
            one.send(Message(open_arena=OpenArena(arena=3, size_bytes=4096)), fd)
            answer = one.receive(DEADLINE_S)
            assert answer
            assert expected in answer[0].arena_opened.error.message
        one.send(Message(arena_opened=ArenaOpened(arena=9)), fd)
        one.send(Message(open_arena=OpenArena(arena=4, size_bytes=4096)))
        answer = one.receive(DEADLINE_S)
        assert answer
        assert "without its descriptor" in answer[0].arena_opened.error.message
        os.close(fd)
        assert theirs.foreign_bytes == 4096
    one.close()
    assert open_files() <= before


def test_a_tag_that_is_too_long_is_the_callers_error_and_costs_nothing() -> None:
    with sessions() as (mine, theirs):
        with pytest.raises(MalformedRequest, match="bytes is above"):
            mine.send(np.ones(1), b"x" * 100_000)
        assert mine.lent == 0
        mine.send(np.ones(1))
        assert theirs.receive(DEADLINE_S).shape == (1,)


# ---------------------------------------------------------------------------------------------------- many at once


def test_many_threads_share_a_session() -> None:
    with sessions(Quota(bytes=16 * 2**20, arenas=16)) as (mine, theirs):
        seen: list[int] = []

        def take() -> None:
            for _ in range(400):
                with theirs.receive(DEADLINE_S) as got:
                    array = got.numpy()
                    assert (array == array[0]).all()
                    seen.append(int(array[0]))

        def give(first: int) -> None:
            for number in range(first, first + 100):
                mine.send(np.full(1 + number * 7, number))

        threads = [threading.Thread(target=give, args=(100 * n,)) for n in range(4)] + [threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert sorted(seen) == list(range(400))
        gc.collect()
        until(lambda: mine.lent == 0)


def test_a_tensor_says_what_it_is() -> None:
    with sessions() as (mine, _):
        tensor = mine.empty((2, 3), "f8", order="F")
        assert (tensor.shape, tensor.strides, tensor.nbytes, tensor.writable) == ((2, 3), (8, 16), 48, True)
        assert repr(tensor) == "SharedTensor(shape=(2, 3), dtype=float64)"
        tensor.release()
        assert repr(tensor) == "SharedTensor(released)"
        assert isinstance(mine.empty(5), SharedTensor)
        with pytest.raises(InvalidRequest, match="dtype"):
            mine.empty(5, object)
