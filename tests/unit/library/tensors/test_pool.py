"""Arenas, quotas, and when a place is free again."""

import gc
from typing import Any

import numpy as np
import pytest

from modelmora.errors import PeerGone, QuotaExceeded
from modelmora.tensors.looks import behind
from modelmora.tensors.mappings import PAGE_BYTES
from modelmora.tensors.pool import Arena, Place, Pool, Quota, to_close

MB = 2**20
QUOTA = Quota(bytes=8 * MB, arenas=4)


class Other:
    """The other side: remembers which arenas are open."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.refuses = False

    def opened(self, arena: Arena) -> None:
        if self.refuses:
            raise PeerGone("refused")
        self.open.append(arena.number)

    def closed(self, arena: Arena) -> None:
        self.open.remove(arena.number)


def pool(quota: Quota = QUOTA) -> tuple[Pool, Other]:
    other = Other()
    return Pool(quota, opened=other.opened, closed=other.closed), other


def taken(made: Pool, size_bytes: int) -> np.ndarray[Any, Any]:
    return np.asarray(made.take(size_bytes))


def place(array: np.ndarray[Any, Any]) -> Place:
    look = behind(array)
    assert look
    found: Place = look.place
    return found


def test_small_places_share_an_arena_and_a_large_one_has_one_of_its_size() -> None:
    made, other = pool()
    arrays = [taken(made, 1000) for _ in range(3)]
    large = taken(made, 3 * MB)
    assert other.open == [1, 2]
    assert {place(array).arena.number for array in arrays} == {1}
    assert place(large).arena.size_bytes == 3 * MB
    assert made.size_bytes == 4 * MB


def test_a_place_is_used_again_when_its_last_array_is_gone() -> None:
    made, _ = pool()
    array = taken(made, 3 * MB)
    at = place(array).offset, place(array).arena
    row = array[5:][::2]
    del array
    other = taken(made, 3 * MB)
    assert place(other).arena is not at[1]
    del row
    again = taken(made, 3 * MB)
    assert (place(again).offset, place(again).arena) == at


def test_a_place_that_is_lent_is_not_used_again_until_it_is_given_back() -> None:
    made, _ = pool()
    array = taken(made, 3 * MB)
    lent = place(array)
    made.lend(lent)
    del array
    assert place(taken(made, 3 * MB)).arena is not lent.arena
    made.take_back(lent)
    gc.collect()
    assert place(taken(made, 3 * MB)).arena is lent.arena


@pytest.mark.req("FR-011")
def test_what_is_above_the_quota_is_refused_and_room_comes_back_with_what_is_released() -> None:
    made, _ = pool()
    held = [taken(made, 3 * MB), taken(made, 3 * MB)]
    with pytest.raises(QuotaExceeded) as caught:
        made.take(3 * MB)
    assert str(3 * MB) in caught.value.message
    assert str(8 * MB) in caught.value.message
    assert caught.value.context.remedy
    held.pop()
    held.append(taken(made, 3 * MB))
    assert made.taken_bytes == 6 * MB


def test_empty_arenas_make_room_for_one_that_they_cannot_hold() -> None:
    made, other = pool()
    small = taken(made, 3 * MB)
    del small
    assert len(taken(made, 7 * MB)) == 7 * MB
    assert other.open == [2]


def test_an_arena_that_the_other_side_does_not_take_is_none() -> None:
    made, other = pool()
    other.refuses = True
    with pytest.raises(PeerGone):
        made.take(1)
    assert made.size_bytes == 0
    other.refuses = False
    assert taken(made, 1).size == 1


def test_after_the_end_nothing_is_taken_and_what_is_seen_stays() -> None:
    made, _ = pool()
    array = taken(made, PAGE_BYTES)
    array[:] = 7
    made.end(PeerGone("it is over"))
    assert array.sum() == 7 * PAGE_BYTES
    with pytest.raises(PeerGone, match="it is over"):
        made.take(1)


@pytest.mark.parametrize(
    ("arenas", "wanted", "closing"),
    [
        ([], 8, []),
        ([], 9, None),
        ([(4, False)], 4, []),
        ([(4, False)], 5, None),
        ([(4, True), (2, True)], 5, [1, 0]),
        ([(4, True), (2, True)], 4, [1]),
        ([(1, False), (1, False), (1, True)], 1, [2]),
        ([(1, False), (1, False), (1, False)], 1, None),
    ],
)
def test_the_smallest_empty_arenas_go_first_and_no_more_than_needed(
    arenas: list[tuple[int, bool]], wanted: int, closing: list[int] | None
) -> None:
    assert to_close(arenas, wanted, Quota(bytes=8, arenas=3)) == closing
