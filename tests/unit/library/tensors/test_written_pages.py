"""Who writes what another process lent writes a copy of the page; no later tensor may be hidden behind that copy."""

from typing import Any

import numpy as np
import pytest

from modelmora.tensors import Session, mappings
from modelmora.tensors.mappings import PAGE_BYTES, address
from tests.support.shared_memory import sessions
from tests.support.waiting import until

DEADLINE_S = 10.0


def written_by_dlpack(tensor: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.from_dlpack(tensor)
    array[:] = 99
    return array


def hand(mine: Session, theirs: Session, value: int, size: int) -> Any:
    mine.send(np.full(size, value, np.uint8))
    return theirs.receive(DEADLINE_S)


@pytest.mark.parametrize("size", [100, 10 * PAGE_BYTES + 5])
def test_what_comes_later_to_the_same_place_is_seen(size: int) -> None:
    with sessions() as (mine, theirs):
        got = hand(mine, theirs, 1, size)
        at = address(got.numpy())
        assert written_by_dlpack(got).sum() == 99 * size
        got.release()
        until(lambda: mine.lent == 0)
        again = hand(mine, theirs, 2, size)
        assert address(again.numpy()) == at, "the test is about the same place"
        assert (again.numpy() == 2).all()


def test_what_comes_beside_it_on_the_same_page_is_seen() -> None:
    with sessions() as (mine, theirs):
        first = hand(mine, theirs, 1, 64)
        copy = written_by_dlpack(first)
        second = hand(mine, theirs, 2, 64)
        assert (second.numpy() == 2).all()
        assert (copy == 99).all()
        del copy
        first.release()
        second.release()
        until(lambda: mine.lent == 0)
        assert (hand(mine, theirs, 3, 256).numpy() == 3).all()


def test_what_somebody_wrote_stays_while_others_come_and_go() -> None:
    with sessions() as (mine, theirs):
        first = hand(mine, theirs, 1, 64)
        copy = written_by_dlpack(first)
        for value in range(20):
            with hand(mine, theirs, value, 64) as other:
                assert (other.numpy() == value).all()
            assert (copy == 99).all()
        assert theirs.foreign_bytes <= 2 * mine.own_bytes


def test_reading_makes_no_copies_and_writing_is_found() -> None:
    with sessions() as (mine, theirs):
        got = hand(mine, theirs, 1, 3 * PAGE_BYTES)
        [sight] = theirs._borrowing.arenas._sights
        assert got.numpy().sum() == 3 * PAGE_BYTES
        assert not mappings.written(sight.bytes, sight.begin, sight.end)
        np.from_dlpack(got)[2 * PAGE_BYTES] = 5
        assert mappings.written(sight.bytes, sight.begin, sight.end)
        assert not mappings.written(sight.bytes, sight.begin, sight.begin + PAGE_BYTES)
