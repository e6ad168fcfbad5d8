"""How many replicas there should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Demand
from modelmora.spec import Scaling
from modelmora_operator.cluster import Recommendation
from modelmora_operator.replicas import Wish, desired
from tests.support.operator_values import NOW


def wish(scaling: Scaling, load: float | None, now: float = NOW, **fields: object) -> Wish:
    known = {"live": 0, "routers_alive": True, "to_prove": 0} | fields
    demand = None if load is None else Demand(load, now)
    return desired(scaling, demand, now=now, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "minimum", "maximum", "expected"),
    [
        pytest.param(None, 0, 3, 0, id="nobody wants it"),
        pytest.param(None, 2, 3, 2, id="the floor holds without demand"),
        pytest.param(0.0, 0, 3, 1, id="a load of nothing is still demand"),
        pytest.param(32.0, 0, 3, 1, id="just enough for one"),
        pytest.param(32.1, 0, 3, 2, id="a little more"),
        pytest.param(1e6, 0, 3, 3, id="the ceiling holds"),
        pytest.param(1.0, 2, 1, 2, id="a floor above the ceiling wins"),
    ],
)
def test_demand_within_floor_and_ceiling(load: float | None, minimum: int, maximum: int, expected: int) -> None:
    assert wish(Scaling(min_replicas=minimum, max_replicas=maximum), load).replicas == expected


def test_going_down_waits_until_fewer_were_enough_for_the_whole_delay() -> None:
    scaling = Scaling(max_replicas=3, scale_down_delay_seconds=30)
    high = wish(scaling, 90, NOW)
    # The high load lasted until now: the delay begins now, not when the high load began.
    lower = wish(scaling, 10, NOW + 100, recommendations=high.recommendations)
    assert (lower.replicas, lower.recheck_after_s) == (3, 30)
    still = wish(scaling, 10, NOW + 120, recommendations=lower.recommendations)
    assert (still.replicas, still.recheck_after_s) == (3, 10)
    after = wish(scaling, 10, NOW + 130, recommendations=still.recommendations)
    assert (after.replicas, after.recheck_after_s) == (1, None)


def test_a_short_dip_changes_nothing_and_starts_the_delay_anew() -> None:
    scaling = Scaling(max_replicas=2, scale_down_delay_seconds=30)
    steps = [(0, 60), (10, 1), (20, 60), (45, 1)]
    remembered: tuple[Recommendation, ...] = ()
    for after, load in steps:
        made = wish(scaling, load, NOW + after, recommendations=remembered)
        remembered = made.recommendations
        assert made.replicas == 2
    assert wish(scaling, 1, NOW + 74, recommendations=remembered).replicas == 2
    assert wish(scaling, 1, NOW + 75, recommendations=remembered).replicas == 1


def test_going_up_never_waits() -> None:
    scaling = Scaling(max_replicas=3)
    low = wish(scaling, 1)
    assert wish(scaling, 90, NOW + 0.1, recommendations=low.recommendations).replicas == 3


def test_going_to_zero_is_at_once_since_the_router_owns_the_idle_clock() -> None:
    scaling = Scaling(max_replicas=3, scale_down_delay_seconds=30)
    high = wish(scaling, 90)
    assert wish(scaling, None, NOW + 1, recommendations=high.recommendations) == Wish(0)


def test_nothing_is_scaled_down_while_no_router_lives() -> None:
    scaling = Scaling(max_replicas=3)
    assert wish(scaling, None, live=2, routers_alive=False).replicas == 2
    assert wish(scaling, None, live=0, routers_alive=False).replicas == 0


def test_a_new_spec_proves_itself_with_the_initial_replicas() -> None:
    assert wish(Scaling(max_replicas=2), None, to_prove=1).replicas == 1
    assert wish(Scaling(max_replicas=2), None, to_prove=5).replicas == 2


@given(
    loads=st.lists(st.one_of(st.none(), st.floats(0, 1000)), max_size=30),
    gaps=st.lists(st.floats(0, 50), min_size=30, max_size=30),
    minimum=st.integers(0, 3),
    maximum=st.integers(1, 5),
)
def test_whatever_happened_it_is_within_bounds_and_remembers_little(
    loads: list[float | None], gaps: list[float], minimum: int, maximum: int
) -> None:
    scaling = Scaling(min_replicas=minimum, max_replicas=maximum)
    now, remembered = NOW, ()
    for load, gap in zip(loads, gaps, strict=False):
        now += gap
        made = wish(scaling, load, now, recommendations=remembered)
        remembered = made.recommendations  # type: ignore[assignment]
        assert minimum <= made.replicas <= max(minimum, maximum)
        assert len(remembered) <= max(minimum, maximum)
        assert made.recheck_after_s is None or made.recheck_after_s > 0
