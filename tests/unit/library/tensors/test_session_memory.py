"""What a session costs: no more than its quota, and nothing when it is over, whoever still has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora.errors import InsufficientMemory, InvalidRequest
from modelmora.tensors import Quota, Session, memory, statistics
from modelmora.v1.sessions_pb2 import CloseArena, Lend, Message, OpenArena
from modelmora.v1.types_pb2 import DATA_TYPE_UINT8, Region, Tensor
from tests.support.shared_memory import QUOTA, connections, sessions
from tests.support.waiting import until

DEADLINE_S = 10.0


def mapped() -> int:
    """Bytes of arenas in this process, from whatever side."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = (line.split()[0].split("-") for line in lines if "memfd:modelmora-arena" in line)
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans)


@pytest.mark.req("US3-AS3")
def test_a_session_that_is_over_holds_no_memory_though_somebody_holds_the_session() -> None:
    before = mapped()
    with sessions() as (mine, theirs):
        mine.send(np.ones(10_000))
        got = theirs.receive(DEADLINE_S)
        put = mine.put(np.ones(10))
        assert mapped() > before
    assert got.numpy().sum() == 10_000
    got.release()
    assert put.numpy().sum() == 10
    put.release()
    until(lambda: mapped() == before)
    assert mine.over
    assert theirs.over


@pytest.mark.req("FR-011")
def test_memory_of_a_closed_arena_counts_as_long_as_somebody_looks_at_it() -> None:
    one, other = connections()
    with Session(other, token="t", quota=QUOTA) as theirs:
        held = []
        for number in range(1, 4):
            fd, _ = memory.create(2 * 2**20, None)
            one.send(Message(open_arena=OpenArena(arena=number, size_bytes=2 * 2**20)), fd)
            answer = one.receive(DEADLINE_S)
            assert answer
            if number == 3:
                assert "is above what the session may have" in answer[0].arena_opened.error.message
                break
            tensor = Tensor(datatype=DATA_TYPE_UINT8, shape=[9], region=Region(arena=number))
            one.send(Message(lend=Lend(lease=number, tensor=tensor)))
            held.append(theirs.receive(DEADLINE_S))
            one.send(Message(close_arena=CloseArena(arena=number)))
        held.clear()
        until(lambda: theirs.foreign_bytes == 0)
    one.close()


def test_more_than_the_machine_has_is_refused_before_it_is_tried() -> None:
    with sessions(Quota(bytes=2**50, arenas=4)) as (mine, theirs):
        with pytest.raises(InsufficientMemory, match="bytes are free"):
            mine.empty(2**46, np.uint8)
        mine.send(np.ones(3))
        assert theirs.receive(DEADLINE_S).numpy().sum() == 3


@pytest.mark.req("EDGE-5")
@pytest.mark.parametrize(
    "seen",
    [
        lambda array: array.view(np.uint8)[1:33].view(np.float32),
        lambda array: array.view(">f4"),
        lambda array: array[::-1],
        lambda array: np.broadcast_to(array[:3], (4, 3)),
    ],
    ids=["between two elements", "big-endian", "backwards", "repeated"],
)
def test_a_part_of_a_tensor_that_cannot_be_said_is_copied_and_counted(seen: Any) -> None:
    with sessions() as (mine, theirs):
        part = seen(mine.put(np.arange(16, dtype=np.float32)).numpy())
        before = statistics()
        mine.send(part)
        np.testing.assert_array_equal(theirs.receive(DEADLINE_S).numpy(), part)
        after = statistics()
        assert (after.puts - before.puts, after.puts_bytes - before.puts_bytes) == (1, part.nbytes)
        assert after.layouts - before.layouts == (0 if part.flags.forc and part.dtype.isnative else 1)


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (lambda array: array.view(np.complex64), "complex64"),
        (lambda array: array.reshape((1,) * 39 + (16,)), "at most 32 dimensions"),
    ],
    ids=["no such dtype", "too many dimensions"],
)
def test_what_has_no_words_on_the_wire_is_the_callers_error_and_the_session_lives(seen: Any, problem: str) -> None:
    with sessions() as (mine, theirs):
        part = seen(mine.put(np.arange(16, dtype=np.float32)).numpy())
        with pytest.raises(InvalidRequest, match=problem):
            mine.send(part)
        mine.send(np.ones(3))
        assert theirs.receive(DEADLINE_S).numpy().sum() == 3


@pytest.mark.parametrize(("shape", "order"), [((-1, 3), "C"), ((1,) * 33, "C"), ((2,), "K")])
def test_a_shape_that_cannot_be_is_the_callers_error(shape: tuple[int, ...], order: str) -> None:
    with sessions() as (mine, _):
        with pytest.raises(InvalidRequest, match="no tensor has the shape"):
            mine.empty(shape, order=order)
        assert mine.empty(np.int64(3)).shape == (3,)  # type: ignore[arg-type]  # as NumPy's sizes are


def test_a_revocation_after_the_end_does_not_hide_the_error_that_led_to_it() -> None:
    with sessions() as (mine, theirs):
        lease, _ = mine.lend([np.ones(3)])
        theirs.close()
        mine.revoke(lease)
        assert mine.wait(DEADLINE_S)
        mine.revoke(lease)
