"""Who gets the places that several models compete for, and how long each may have to wait for one."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelmora.control import Key
from modelmora.spec import Priority
from modelmora_operator.sharing import Contender, Rules, Share, shares

NOW = 10_000.0
RULES = Rules(max_workers=1, turn_s=60, ageing_s=30)
CRITICAL, HIGH, NORMAL, LOW = Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW


def loaded(name: str, urgency: int = 0, *, served_s: float = 40, **fields: Any) -> Contender:
    """Serves, without a residency; `urgency` 0: idle."""
    made = Contender(Key("default", name), wants=1, live=1, serving_since=NOW - served_s, urgency=urgency)
    return replace(made, **fields)


def waiter(name: str, urgency: int = NORMAL, *, waited_s: float = 1, **fields: Any) -> Contender:
    made = Contender(Key("default", name), wants=1, urgency=urgency, waiting_since=NOW - waited_s)
    return replace(made, **fields)


def given_to(*contenders: Contender, rules: Rules = RULES) -> dict[str, Share]:
    return {key.name: share for key, share in shares(contenders, rules, NOW).by_key.items()}


def placed(*contenders: Contender, rules: Rules = RULES) -> set[str]:
    return {name for name, share in given_to(*contenders, rules=rules).items() if share.granted}


def test_a_free_place_is_for_whoever_wants_it() -> None:
    assert given_to(waiter("a"))["a"] == Share(granted=1, may_start=1)
    assert placed(loaded("a", NORMAL), waiter("b", 0, waiting_since=0.0), rules=replace(RULES, max_workers=2)) == {
        "a",
        "b",
    }


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
def test_a_model_in_use_keeps_its_place_for_its_turn() -> None:
    seen = given_to(loaded("a", NORMAL, served_s=59), waiter("b", NORMAL))
    assert (seen["a"].granted, seen["b"].granted) == (1, 0)
    assert seen["b"].holders == (Key("default", "a"),)
    assert seen["b"].changes_at == NOW + 1


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
def test_after_its_turn_it_gives_way_and_the_other_starts_once_it_has_ended() -> None:
    seen = given_to(loaded("a", NORMAL, served_s=60), waiter("b", NORMAL))
    assert (seen["a"].granted, seen["a"].gives_way_to) == (0, (Key("default", "b"),))
    assert (seen["b"].granted, seen["b"].may_start) == (1, 0)
    ending = Contender(Key("default", "a"), wants=1, ending=1, urgency=NORMAL)
    assert given_to(ending, waiter("b"))["b"].may_start == 0
    assert given_to(replace(ending, ending=0), waiter("b"))["b"].may_start == 1


def test_a_turn_is_never_shorter_than_the_residency() -> None:
    resident = loaded("a", NORMAL, served_s=80, min_residency_s=100)
    assert placed(resident, waiter("b", CRITICAL)) == {"a"}


@pytest.mark.req("REQ-QUEUE-002")
def test_the_more_urgent_takes_the_place_at_once() -> None:
    for urgency in (NORMAL, HIGH, CRITICAL):
        assert placed(loaded("a", LOW, served_s=2), waiter("b", urgency)) == {"b"}
    assert placed(loaded("a", NORMAL, served_s=2), waiter("b", LOW)) == {"a"}


def test_who_is_loading_or_has_just_come_is_left_alone() -> None:
    loading = loaded("a", LOW, loading=True, serving_since=None)
    assert placed(loading, waiter("b", CRITICAL)) == {"a"}
    assert placed(loaded("a", LOW, served_s=29, min_residency_s=30), waiter("b", CRITICAL)) == {"a"}
    assert placed(loaded("a", LOW, served_s=30, min_residency_s=30), waiter("b", CRITICAL)) == {"b"}
    assert placed(loaded("a", LOW, served_s=0.5), waiter("b", CRITICAL)) == {
        "a"
    }  # what waited for it is sent to it first


def test_one_that_cannot_serve_is_not_loading() -> None:
    assert placed(loaded("a", NORMAL, serving_since=None), waiter("b", NORMAL)) == {"b"}


def test_an_idle_model_gives_way_the_least_recently_used_first() -> None:
    old, new = loaded("old", last_used_at=1), loaded("new", last_used_at=2)
    rules = replace(RULES, max_workers=2)
    assert placed(old, new, waiter("b", LOW), rules=rules) == {"new", "b"}
    assert placed(loaded("busy", LOW), new, waiter("b", HIGH), rules=rules) == {"busy", "b"}


def test_what_nobody_waits_for_displaces_nobody() -> None:
    wanted = waiter("b", 0, waiting_since=0.0)
    assert placed(loaded("a", served_s=1e6), wanted) == {"a"}


def test_of_those_that_wait_the_more_urgent_comes_first_then_the_older() -> None:
    assert placed(waiter("a", NORMAL, waited_s=5), waiter("b", NORMAL, waited_s=9), waiter("c", LOW)) == {"b"}
    assert placed(waiter("a", NORMAL, waited_s=9), waiter("b", HIGH, waited_s=1)) == {"b"}


@pytest.mark.req("REQ-QUEUE-002")
def test_who_waits_ages_up_to_high_and_displaces_what_has_had_its_turn() -> None:
    assert placed(loaded("a", HIGH, served_s=60), waiter("b", LOW, waited_s=59)) == {"a"}
    assert placed(loaded("a", HIGH, served_s=60), waiter("b", LOW, waited_s=60)) == {"b"}
    assert placed(loaded("a", HIGH, served_s=59), waiter("b", LOW, waited_s=1e6)) == {"a"}
    for urgency in (HIGH, NORMAL, LOW):
        assert placed(loaded("a", CRITICAL, served_s=1e6), waiter("b", urgency, waited_s=1e6)) == {"a"}
    never = replace(RULES, ageing_s=0)
    assert placed(loaded("a", HIGH, served_s=1e6), waiter("b", LOW, waited_s=1e6), rules=never) == {"a"}


def test_when_a_turn_or_an_age_changes_something_is_told_to_one_of_those_that_wait() -> None:
    seen = given_to(loaded("a", HIGH, served_s=10), waiter("b", LOW, waited_s=10), waiter("c", NORMAL))
    assert [seen[name].changes_at for name in "abc"] == [None, None, NOW + 20]
    assert given_to(loaded("a", HIGH))["a"].changes_at is None


def test_what_is_to_stay_stays_and_comes_first() -> None:
    floor = loaded("a", served_s=1e6, firm=1)
    seen = given_to(floor, waiter("b", CRITICAL))
    assert (seen["b"].granted, seen["b"].for_good) == (0, True)
    assert placed(loaded("a", CRITICAL, served_s=2), waiter("b", 0, firm=1, waiting_since=0.0)) == {"b"}
    assert placed(loaded("a", CRITICAL, loading=True), waiter("b", firm=1)) == {"a"}


def test_a_second_worker_gets_only_what_is_left() -> None:
    rules = replace(RULES, max_workers=2)
    many = loaded("a", CRITICAL, wants=3, live=2)
    assert {name: share.granted for name, share in given_to(many, waiter("b", LOW), rules=rules).items()} == {
        "a": 1,
        "b": 1,
    }
    assert placed(loaded("a", CRITICAL, wants=2), waiter("b", LOW), rules=rules) == {"a", "b"}
    assert placed(loaded("a", CRITICAL, wants=2), loaded("b", served_s=1e6), rules=rules) == {"a", "b"}
    assert given_to(loaded("a", LOW, wants=2), rules=rules)["a"] == Share(granted=2, may_start=1)
    urgent = given_to(
        loaded("a", LOW, wants=2, live=2), loaded("b", HIGH, wants=2), rules=replace(RULES, max_workers=3)
    )
    assert (urgent["a"].granted, urgent["b"].granted) == (1, 2)


@pytest.mark.parametrize(
    ("changed", "moves"), [({}, True), ({"arriving": True}, False), ({"min_residency_s": 60}, False)]
)
def test_second_workers_are_taken_only_once_they_have_settled(changed: dict[str, Any], *, moves: bool) -> None:
    rules = replace(RULES, max_workers=3)
    held = loaded("a", NORMAL, wants=2, live=2, **changed)
    seen = given_to(held, loaded("b", HIGH, wants=2), rules=rules)
    assert (seen["a"].granted, seen["b"].granted) == ((1, 2) if moves else (2, 1))


def test_a_clock_that_was_set_back_lets_nobody_overtake() -> None:
    before = waiter("z", waited_s=-3600)  # began to wait when the clock was an hour ahead
    assert placed(before, waiter("y", waited_s=5)) == {"y"}
    assert given_to(before, waiter("y", LOW, waited_s=-1))["z"].granted == 1


def test_a_rollout_gets_a_further_place_only_if_nobody_else_wants_it() -> None:
    rolling, rules = loaded("a", NORMAL, surge=1), replace(RULES, max_workers=2)
    assert given_to(rolling, rules=rules)["a"] == Share(granted=2, may_start=1)
    assert given_to(rolling, waiter("b", LOW), rules=rules)["a"].granted == 1
    assert given_to(replace(rolling, live=2), waiter("b", LOW), rules=rules)["a"].granted == 1
    assert given_to(rolling)["a"].granted == 1


def test_a_lower_bound_takes_back_what_is_too_much() -> None:
    assert placed(loaded("a", NORMAL), loaded("b"), loaded("c", HIGH)) == {"c"}


def test_a_clock_that_was_set_back_keeps_nobody_in_its_place() -> None:
    assert placed(loaded("a", NORMAL, served_s=-3600, min_residency_s=30), waiter("b", NORMAL)) == {"b"}
    assert placed(loaded("a", NORMAL, served_s=-2, min_residency_s=30), waiter("b", NORMAL)) == {"a"}


# ------------------------------------------------------------------------------------------------ whatever there is

SECONDS = st.floats(0, 200)
CONTENDERS = st.builds(
    lambda live, ending, failed, served, waited, **fields: Contender(
        key=Key("default", ""),
        live=live,
        ending=ending,
        loading=bool(live) and served is None and not failed,
        serving_since=NOW - served if live and served is not None else None,
        waiting_since=0.0 if live else NOW - waited,
        **fields,
    ),
    live=st.integers(0, 2),
    ending=st.integers(0, 1),
    failed=st.booleans(),
    served=st.none() | SECONDS,
    waited=SECONDS,
    wants=st.integers(0, 3),
    surge=st.integers(0, 1),
    firm=st.integers(0, 1),
    urgency=st.integers(0, 4),
    last_used_at=st.floats(0, NOW),
    min_residency_s=st.sampled_from([0.0, 30.0]),
)


def named(contenders: Iterable[Contender]) -> list[Contender]:
    return [replace(one, key=Key("default", str(number))) for number, one in enumerate(contenders)]


SCENES = st.tuples(st.lists(CONTENDERS, max_size=7).map(named), st.integers(1, 6))


def protected(one: Contender) -> bool:
    residency_s = max(one.min_residency_s, 1.0 if one.urgency else 0.0)
    return one.loading or (one.serving_since is not None and NOW - one.serving_since < residency_s)


def turn_is_over(one: Contender) -> bool:
    return one.serving_since is None or NOW - one.serving_since >= max(RULES.turn_s, one.min_residency_s)


@settings(deadline=None)
@given(SCENES)
def test_there_are_never_more_workers_than_may_be(scene: tuple[list[Contender], int]) -> None:
    contenders, places = scene
    exist = sum(one.live + one.ending for one in contenders)
    found = shares(contenders, replace(RULES, max_workers=places), NOW).by_key
    assert sum(share.granted for share in found.values()) <= places
    assert sum(share.may_start for share in found.values()) <= max(0, places - exist)
    for one in contenders:
        share = found[one.key]
        assert 0 <= share.granted <= one.wants + one.surge
        assert share.may_start <= max(0, share.granted - one.live)


@settings(deadline=None)
@given(SCENES, st.randoms(use_true_random=False))
def test_the_order_in_which_they_are_told_changes_nothing(scene: tuple[list[Contender], int], chance: Any) -> None:
    contenders, places = scene
    rules, mixed = replace(RULES, max_workers=places), list(contenders)
    chance.shuffle(mixed)
    assert shares(contenders, rules, NOW).by_key == shares(mixed, rules, NOW).by_key


@settings(deadline=None)
@given(SCENES)
def test_nobody_gives_way_without_need(scene: tuple[list[Contender], int]) -> None:
    contenders, places = scene
    found = shares(contenders, replace(RULES, max_workers=places), NOW).by_key
    taken = sum(share.granted for share in found.values())
    for one in contenders:
        if found[one.key].granted < min(one.live, one.wants + one.surge):
            assert taken == places


@settings(deadline=None)
@given(SCENES)
def test_who_gives_its_last_place_up_has_reason_to(scene: tuple[list[Contender], int]) -> None:
    contenders, places = scene
    assume(sum(min(one.live, one.wants + one.surge) for one in contenders) <= places)
    found = shares(contenders, replace(RULES, max_workers=places), NOW).by_key
    came = [one for one in contenders if not one.live and found[one.key].granted]
    for one in contenders:
        if not (one.wants and one.live) or found[one.key].granted:
            continue
        assert not one.firm
        assert not protected(one)
        if one.urgency and not turn_is_over(one):
            assert any(other.firm or 0 < other.urgency < one.urgency for other in came)
        if one.urgency:  # no idle model that could have gone in its stead is left
            idle = [other for other in contenders if other.live and other.wants and not other.urgency]
            assert all(other.firm or protected(other) for other in idle if found[other.key].granted)


@settings(deadline=None)
@given(SCENES)
def test_the_more_urgent_never_waits_for_what_could_give_way(scene: tuple[list[Contender], int]) -> None:
    contenders, places = scene
    found = shares(contenders, replace(RULES, max_workers=places), NOW).by_key
    for one in contenders:
        if one.live or not one.wants or not one.urgency or found[one.key].granted:
            continue
        for other in contenders:
            if other.live and found[other.key].granted and not other.firm and not protected(other):
                assert min(found[other.key].granted, other.live) == 1
                assert 0 < other.urgency <= one.urgency


# ------------------------------------------------------------------------------------------------ over time

TURN_S, LOAD_S, DRAIN_S, AGEING_S = 20, 3, 2, 10


@dataclass
class Model:
    """Busy for ever."""

    name: str
    urgency: int
    state: str = "waiting"
    since: float = 1.0
    served: list[tuple[float, float]] = field(default_factory=list)  # from, until
    residency_s: float = 5.0

    def contender(self) -> Contender:
        return Contender(
            key=Key("default", self.name),
            wants=1,
            live=int(self.state in {"loading", "serving"}),
            ending=int(self.state == "ending"),
            loading=self.state == "loading",
            serving_since=self.since if self.state == "serving" else None,
            urgency=self.urgency,
            waiting_since=self.since if self.state in {"waiting", "ending"} else 0.0,
            min_residency_s=self.residency_s,
        )

    def step(self, share: Share, now: float) -> None:
        if self.state == "waiting" and share.may_start:
            self.state, self.since = "loading", now
        elif self.state == "loading" and now - self.since >= LOAD_S:
            self.state, self.since = "serving", now
            self.served.append((now, math.inf))
        elif self.state == "serving" and not share.granted:
            self.state, self.since = "ending", now
            self.served[-1] = (self.served[-1][0], now)
        elif self.state == "ending" and now - self.since >= DRAIN_S:
            self.state = "waiting"

    def longest_wait(self, end: float) -> float:
        begins = [1.0, *(until for _, until in self.served)]
        ends = [*(at for at, _ in self.served), end]
        return max(after - before for before, after in zip(begins, ends, strict=False) if before < math.inf)


def simulated(models: list[Model], places: int, *, until: int) -> list[Model]:
    """One model after the other acts, as reconciles do; after each, the shares are new."""
    rules = Rules(places, TURN_S, AGEING_S)
    for now in range(1, until):
        for model in models:
            found = shares([each.contender() for each in models], rules, float(now)).by_key
            model.step(found[Key("default", model.name)], float(now))
            assert sum(each.state != "waiting" for each in models) <= places
    return models


CHANGE_S = LOAD_S + DRAIN_S + 3  # with a second for each of three steps of the simulation


@pytest.mark.req("REQ-QUEUE-002", "RM-2.1b")
@pytest.mark.parametrize(("models", "places"), [(2, 1), (3, 1), (3, 2), (5, 2), (7, 3)])
def test_each_of_those_that_are_never_idle_gets_its_turn_in_time(models: int, places: int) -> None:
    end = 600
    found = simulated([Model(f"m{number}", NORMAL) for number in range(models)], places, until=end)
    bound_s = math.ceil((models - 1) / places) * (TURN_S + CHANGE_S) + CHANGE_S
    for model in found:
        assert model.longest_wait(end) <= bound_s
        turns = [until - at for at, until in model.served if until < math.inf]
        assert all(turn >= TURN_S for turn in turns)  # and they do not come and go
        assert len(turns) >= 3


@pytest.mark.req("REQ-QUEUE-002")
@pytest.mark.parametrize(("low", "levels"), [(LOW, 2), (NORMAL, 1)])
def test_a_less_urgent_one_gets_its_turn_once_it_has_aged(low: Priority, levels: int) -> None:
    end = 900
    models = simulated([Model("a", HIGH), Model("b", HIGH), Model("c", low)], 1, until=end)
    assert models[2].longest_wait(end) <= levels * AGEING_S + 2 * (TURN_S + CHANGE_S) + CHANGE_S
    turns = [until - at for at, until in models[2].served if until < math.inf]
    assert len(turns) >= 3
    assert all(turn >= models[2].residency_s for turn in turns)


def test_against_endless_critical_there_is_no_bound() -> None:
    critical, high = simulated([Model("a", CRITICAL), Model("b", HIGH)], 1, until=400)
    assert (len(critical.served), high.served) == (1, [])
