"""Which model leaves first, and when."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.errors import InvalidSettings
from modelmora.registry import LFU, LRU, MANUAL, POLICIES, REFERENCE_COUNT, TTL, Candidate, Policy
from modelmora.registry.policies import expired, leaving_order, next_expiry, policy_of

NOW = 1000.0
IDLE = st.builds(
    Candidate,
    key=st.integers(),
    size_bytes=st.integers(0, 1000),
    references=st.integers(0, 2),
    uses=st.integers(1, 50),
    loaded_at=st.floats(0, 900),
    idle_since=st.floats(900, NOW),
)


def names(models: list[Candidate]) -> str:
    return "".join(str(model.key) for model in models)


@pytest.mark.req("FR-010a")
def test_lru_lets_go_what_was_released_longest_ago() -> None:
    models = [Candidate("b", idle_since=20), Candidate("c", idle_since=30), Candidate("a", idle_since=10)]
    assert names(leaving_order(LRU, models, NOW)) == "abc"


@pytest.mark.req("FR-010b")
def test_reference_count_lets_go_what_had_the_fewest_and_never_what_has_one() -> None:
    models = [
        Candidate("c", uses=9, idle_since=1),
        Candidate("held", uses=1, references=1),
        Candidate("b", uses=2, idle_since=3),
        Candidate("a", uses=2, idle_since=2),
    ]
    assert names(leaving_order(REFERENCE_COUNT, models, NOW)) == "abc"


def test_lfu_counts_uses_a_second_so_that_nobody_lives_on_the_past() -> None:
    once_busy = Candidate("old", uses=50, loaded_at=NOW - 1000)
    busy_now = Candidate("new", uses=5, loaded_at=NOW - 10)
    assert names(leaving_order(LFU, [busy_now, once_busy], NOW)) == "oldnew"
    assert names(leaving_order(REFERENCE_COUNT, [busy_now, once_busy], NOW)) == "newold"


def test_ttl_keeps_a_model_for_its_time_whoever_needs_room() -> None:
    young, over = Candidate("young", idle_since=NOW - 19), Candidate("over", idle_since=NOW - 20)
    assert names(leaving_order(TTL, [young, over], NOW)) == "over"
    assert names(leaving_order(LRU, [young, over], NOW)) == "overyoung"


@pytest.mark.req("FR-010c")
@given(models=st.lists(IDLE))
def test_under_manual_nothing_leaves_by_itself(models: list[Candidate]) -> None:
    assert leaving_order(MANUAL, models, 1e12) == expired(MANUAL, models, 1e12) == []
    assert next_expiry(MANUAL, models, 0.0) == math.inf


@pytest.mark.req("FR-010b", "FR-002")
@given(models=st.lists(IDLE), policy=st.sampled_from(list(POLICIES.values())))
def test_nobody_leaves_who_is_held(models: list[Candidate], policy: Policy) -> None:
    leaving = leaving_order(policy, models, NOW) + expired(policy, models, NOW)
    assert [model for model in leaving if model.references] == []


@pytest.mark.req("SC-006")
@given(models=st.lists(IDLE))
def test_by_default_every_idle_model_is_over_well_within_30_s(models: list[Candidate]) -> None:
    for policy in (LRU, LFU, TTL, REFERENCE_COUNT):
        assert len(expired(policy, models, NOW + 25)) == sum(not model.references for model in models)


def test_the_next_expiry_is_the_earliest_that_is_still_to_come() -> None:
    models = [Candidate("held", references=1), Candidate("over", idle_since=5), Candidate("next", idle_since=10)]
    assert next_expiry(LRU, models, 25.0) == 30.0
    assert next_expiry(LRU, models, 30.0) == math.inf


def test_a_policy_goes_by_its_name_and_takes_another_idle_time() -> None:
    assert policy_of("lfu") is LFU
    assert policy_of("ttl", 5.0).idle_s == 5.0
    own = Policy("largest-first", lambda model, _: -model.size_bytes)
    assert policy_of(own) is own
    models = [Candidate("a", size_bytes=1, idle_since=0), Candidate("b", size_bytes=2, idle_since=0)]
    assert names(leaving_order(own, models, NOW)) == "ba"


@pytest.mark.parametrize(("policy", "idle_s"), [("mru", None), ("lru", -1.0), ("lru", math.nan)])
def test_what_is_no_policy_is_refused(policy: str, idle_s: float | None) -> None:
    with pytest.raises(InvalidSettings):
        policy_of(policy, idle_s)
