"""Which bytes of an arena are taken."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from modelmora.tensors.allocator import ALIGNMENT, Allocator, rounded

SIZE = 64 * ALIGNMENT


def test_places_begin_at_multiples_of_the_alignment() -> None:
    allocator = Allocator(SIZE)
    assert [allocator.take(size) for size in (1, 65, 0, 64)] == [0, 64, 192, 256]


def test_the_smallest_piece_that_suffices_is_taken() -> None:
    allocator = Allocator(SIZE)
    large, _, small, _ = (allocator.take(size * ALIGNMENT) for size in (4, 1, 2, 1))
    assert large is not None
    assert small is not None
    allocator.free(large)
    allocator.free(small)
    assert allocator.take(2 * ALIGNMENT) == small


def test_what_does_not_fit_takes_nothing() -> None:
    allocator = Allocator(SIZE)
    assert allocator.take(SIZE + 1) is None
    assert allocator.empty
    assert allocator.largest_free_bytes == SIZE
    assert allocator.take(SIZE) == 0
    assert allocator.take(0) is None


def test_a_place_is_freed_once() -> None:
    allocator = Allocator(SIZE)
    allocator.take(1)
    allocator.free(0)
    with pytest.raises(KeyError):
        allocator.free(0)


class Use(RuleBasedStateMachine):
    """No two places overlap, none reaches out, and free neighbours are one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(SIZE + 17)
        self.taken: dict[int, int] = {}

    places = Bundle("places")

    @rule(target=places, size=st.integers(0, SIZE // 3))
    def take(self, size: int) -> int | None:
        largest = self.allocator.largest_free_bytes
        offset = self.allocator.take(size)
        assert (offset is None) is (rounded(size) > largest)
        if offset is not None:
            self.taken[offset] = rounded(size)
        return offset

    @rule(offset=consumes(places))
    def free(self, offset: int | None) -> None:
        if offset is not None:
            self.allocator.free(offset)
            del self.taken[offset]

    @invariant()
    def nothing_overlaps_and_the_free_pieces_are_as_large_as_can_be(self) -> None:
        at, gaps = 0, []
        for offset, size in sorted(self.taken.items()):
            assert offset >= at
            gaps.append(offset - at)
            at = offset + size
        gaps.append(SIZE - at)
        assert min(gaps) >= 0
        assert self.allocator.largest_free_bytes == max(gaps)
        assert self.allocator.taken_bytes == sum(self.taken.values())


TestUse = Use.TestCase
TestUse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
