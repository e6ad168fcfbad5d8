"""Whether a model fits, who has to leave for it, and what is said if it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.registry import Candidate
from modelmora.registry.admission import Room, making_room, refusal

MB = 1_000_000
SIZES = st.lists(st.integers(0, 100), max_size=8)


@pytest.mark.parametrize(
    ("room", "needed", "missing"),
    [
        (Room(), 10**15, 0),
        (Room(taken_bytes=60, limit_bytes=100), 40, 0),
        (Room(taken_bytes=60, limit_bytes=100), 41, 1),
        (Room(taken_bytes=110, limit_bytes=100), 0, 10),
        (Room(free_bytes=30), 31, 1),
        (Room(free_bytes=-5), 0, 0),
        (Room(taken_bytes=60, limit_bytes=100, free_bytes=10), 45, 35),
    ],
    ids=["no-bound", "fits", "limit", "over-already", "machine", "unknown-need-on-a-full-machine", "the-tighter-bound"],
)
def test_what_is_missing(room: Room, needed: int, missing: int) -> None:
    assert room.missing_bytes(needed) == missing


@pytest.mark.req("EDGE-1")
@given(sizes=SIZES, missing=st.integers(0, 400))
def test_as_many_leave_as_are_needed_in_order_and_it_is_known_before_if_they_do_not_suffice(
    sizes: list[int], missing: int
) -> None:
    order = [Candidate(n, size_bytes=size) for n, size in enumerate(sizes)]
    leaving, short = making_room(missing, order)
    assert [model.key for model in leaving] == sorted(model.key for model in leaving)  # type: ignore[type-var]
    freed = sum(model.size_bytes for model in leaving)
    assert short == max(0, missing - sum(sizes))
    if leaving and not short:
        assert freed - leaving[-1].size_bytes < missing <= freed


@pytest.mark.req("EDGE-1")
def test_a_refusal_says_what_is_needed_what_there_is_who_has_it_and_what_to_do() -> None:
    models = [Candidate("small", size_bytes=20 * MB), Candidate("large", size_bytes=280 * MB, references=2)]
    room = Room(taken_bytes=300 * MB, limit_bytes=400 * MB, free_bytes=900 * MB)
    error = refusal("big", 150 * MB, room, models)
    assert error.message == (
        "'big' needs 150 MB and 100 MB are free: the limit is 400 MB, the machine has 900 MB free; "
        "loaded: 'large' (280 MB, references: 2), 'small' (20 MB, references: 0)"
    )
    assert error.context.model_id == "big"
    assert "close handles" in error.context.remedy
    assert "raise memory_limit_bytes" in refusal("big", 500 * MB, room, models).context.remedy
    full = refusal("big", 95_000 * MB, Room(free_bytes=24_105 * MB), [])
    assert "needs 95000 MB and 24105 MB are free: no limit is set, the machine has 24105 MB free" in full.message
    assert "the machine" in full.context.remedy


def test_a_refusal_names_no_more_than_the_largest_five() -> None:
    models = [Candidate(f"m{n}", size_bytes=n * MB) for n in range(9)]
    message = refusal("big", 1, Room(limit_bytes=0), models).message
    assert "'m8'" in message
    assert "'m3'" not in message
    assert "and 4 more" in message
