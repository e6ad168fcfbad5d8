"""Who answers a request for a model with a route, and which requests are copied."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Key
from modelmora.control.trips import with_trips
from modelmora.errors import ModelNotFound, ModelUnhealthy
from modelmora.spec import ModelDeployment, ModelRef, ModelRoute
from modelmora.spec.route_effect import Defect
from modelmora_router.catalog import Catalog
from modelmora_router.routes import RouteTable, Turns
from tests.support import routes, routing
from tests.support.routes import route
from tests.support.routing import failed

MANY = 10_000
USERS = 2_000
BARE = ModelRef("m")


def deployed(name: str, version: str, *, model_id: str = "m", **fields: Any) -> ModelDeployment:
    return routing.deployment(name, model={"id": model_id, "version": version}, **fields)


OLD, NEW = deployed("old", "1.0.0"), deployed("new", "2.0.0")


def catalog(*objects: ModelDeployment | ModelRoute, before: Catalog | None = None) -> Catalog:
    deployments = {routing.key_of(one): one for one in objects if isinstance(one, ModelDeployment)}
    found = {routes.key_of(one): one for one in objects if isinstance(one, ModelRoute)}
    return Catalog(deployments, found, before)


def table(*objects: ModelDeployment | ModelRoute, before: Catalog | None = None) -> RouteTable:
    found = catalog(*objects, before=before).route("default", BARE)
    assert found
    return found


def picked(of: RouteTable, requests: int = MANY, headers: Mapping[str, str] | None = None) -> Counter[str]:
    return Counter(of.pick(headers or {}).metadata.name for _ in range(requests))


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.req("RM-4.3a", "RM-4.3b")
@pytest.mark.parametrize("weights", [(70, 30), (1, 1), (99, 1), (9_999, 1), (7, 0)])
def test_shares_are_exact_over_ten_thousand_requests(weights: tuple[int, int]) -> None:
    found = picked(table(OLD, NEW, route({"old": weights[0], "new": weights[1]})))
    whole = sum(weights)
    assert found["old"] == pytest.approx(MANY * weights[0] / whole, abs=1)
    assert found["new"] == pytest.approx(MANY * weights[1] / whole, abs=1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
def test_after_every_round_each_has_had_exactly_its_share(weights: list[int]) -> None:
    turns = Turns(weights)
    for _ in range(3):
        found = Counter(turns.next() for _ in range(sum(weights)))
        assert [found[index] for index in range(len(weights))] == weights


@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.integers(1, 500))
def test_of_two_neither_is_ever_more_than_one_request_off(weights: tuple[int, int], requests: int) -> None:
    turns = Turns(weights)
    found = Counter(turns.next() for _ in range(requests))
    for index, weight in enumerate(weights):
        assert abs(found[index] - requests * weight / sum(weights)) <= 1


def test_a_small_share_is_not_served_in_one_lump() -> None:
    of = table(OLD, NEW, route({"old": 9, "new": 1}))
    turns = [of.pick({}).metadata.name for _ in range(100)]
    assert [turns[start : start + 10].count("new") for start in range(0, 100, 10)] == [1] * 10


@pytest.mark.req("RM-4.3b")
def test_an_edit_of_the_weights_counts_from_the_next_request() -> None:
    before = catalog(OLD, NEW, route({"old": 99, "new": 1}))
    assert picked(table(OLD, NEW, route({"old": 99, "new": 1}), before=before), 100) == {"old": 99, "new": 1}
    assert picked(table(OLD, NEW, route({"old": 50, "new": 50}), before=before), 100) == {"old": 50, "new": 50}


def test_a_status_that_changes_between_requests_starves_nobody() -> None:
    """Every snapshot makes new tables; a share of 1 % would never have its turn if each began anew."""
    canary, found = route({"old": 99, "new": 1}), Counter[str]()
    now = catalog(OLD, NEW, canary)
    for number in range(200):
        now = catalog(deployed("old", "1.0.0", status={"replicas": number}), NEW, canary, before=now)
        of = now.route("default", BARE)
        assert of
        found[of.pick({}).metadata.name] += 1
    assert found == {"old": 198, "new": 2}


# ------------------------------------------------------------------------------------------------ who cannot answer

SUSPENDED = deployed("new", "2.0.0", suspend=True)
FAILED = deployed("new", "2.0.0", status=failed())
FAILED_BEFORE_ITS_EDIT = deployed("new", "2.0.0", status=failed(), metadata={"generation": 2})
OTHER = deployed("new", "2.0.0", model_id="another")


@pytest.mark.parametrize("broken", [(), (SUSPENDED,), (FAILED,), (OTHER,)])
def test_a_backend_that_cannot_answer_gets_nothing(broken: tuple[ModelDeployment, ...]) -> None:
    assert picked(table(OLD, *broken, route({"old": 1, "new": 99})), 100) == {"old": 100}


def test_the_others_share_by_their_weights() -> None:
    third = deployed("third", "3.0.0")
    assert picked(table(OLD, FAILED, third, route({"old": 3, "new": 94, "third": 1})), 400) == {
        "old": 300,
        "third": 100,
    }


def test_a_failure_of_an_older_spec_says_nothing() -> None:
    found = picked(table(OLD, FAILED_BEFORE_ITS_EDIT, route({"old": 1, "new": 1})), 10)
    assert found == {"old": 5, "new": 5}


def test_the_younger_of_two_with_the_same_version_gets_nothing() -> None:
    twin = deployed("twin", "1.0.0")
    assert picked(table(OLD, twin, NEW, route({"twin": 50, "new": 50})), 10) == {"new": 10}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ((), Defect.MISSING),
        ((SUSPENDED,), Defect.SUSPENDED),
        ((FAILED,), Defect.FAILED),
        ((OTHER,), Defect.WRONG_MODEL),
    ],
)
def test_without_anybody_to_answer_the_route_is_named(broken: tuple[ModelDeployment, ...], reason: Defect) -> None:
    of = table(*broken, route({"new": 1}, name="canary"))
    with pytest.raises(ModelUnhealthy, match="ModelRoute default/canary") as caught:
        of.pick({})
    assert caught.value.context.reason == reason
    assert caught.value.context.retry_after_s
    assert "id@version" in caught.value.context.remedy


def test_a_backend_that_failed_is_wanted_so_that_it_is_tried_again() -> None:
    assert table(OLD, FAILED, route({"old": 1, "new": 1})).wanted == (Key("default", "new"),)
    assert table(OLD, SUSPENDED, route({"old": 1, "new": 1})).wanted == ()


# ------------------------------------------------------------------------------------------------ sticky


def answers(of: RouteTable) -> dict[str, str]:
    return {f"user-{n}": of.pick({"x-user": f"user-{n}"}).metadata.name for n in range(USERS)}


def sticky(**weights: int) -> ModelRoute:
    return route(weights, stickyHeader="X-User")


def test_the_same_value_always_goes_to_the_same_backend() -> None:
    first, second = answers(table(OLD, NEW, sticky(old=1, new=1))), answers(table(OLD, NEW, sticky(old=1, new=1)))
    assert first == second
    assert set(first.values()) == {"old", "new"}


def test_values_are_shared_out_by_weight() -> None:
    found = Counter(answers(table(OLD, NEW, sticky(old=70, new=30))).values())
    assert found["new"] == pytest.approx(USERS * 0.3, abs=70)  # more than three standard deviations


def test_growing_one_backend_moves_only_values_to_it() -> None:
    before, after = answers(table(OLD, NEW, sticky(old=90, new=10))), answers(table(OLD, NEW, sticky(old=50, new=50)))
    moved = {after[user] for user in before if before[user] != after[user]}
    assert moved == {"new"}


def test_a_backend_that_falls_out_moves_only_its_own() -> None:
    third = deployed("third", "3.0.0")
    before = answers(table(OLD, NEW, third, sticky(old=1, new=1, third=1)))
    after = answers(table(OLD, FAILED, third, sticky(old=1, new=1, third=1)))
    assert {before[user] for user in before if before[user] != after[user]} == {"new"}


def test_who_does_not_send_the_header_is_balanced() -> None:
    of = table(OLD, NEW, sticky(old=1, new=1))
    assert picked(of, 10) == picked(of, 10, {"x-user": ""}) == {"old": 5, "new": 5}


# ------------------------------------------------------------------------------------------------ rolled back

ROLLBACK = {"errorPercent": 50, "minRequests": 2}


def canary(generation: int = 1, *, rolled_back: bool = False, **spec: Any) -> ModelRoute:
    of = route({"old": 60, "new": 40}, generation=generation, rollback=ROLLBACK, **spec)
    return with_trips(of, [routes.trip("new", generation=generation)], 0.0) if rolled_back else of


@pytest.mark.req("RM-4.3b")
def test_a_backend_that_was_rolled_back_gets_nothing_and_is_not_woken() -> None:
    fallen = table(OLD, NEW, canary(rolled_back=True))
    assert picked(fallen, 10) == {"old": 10}
    assert fallen.wanted == ()
    assert table(OLD, FAILED, canary(rolled_back=True)).wanted == ()


@pytest.mark.req("RM-4.3b")
def test_an_edit_gives_a_backend_its_weight_back() -> None:
    before = canary(rolled_back=True)
    edited = canary(2).model_copy(update={"status": before.status})
    assert picked(table(OLD, NEW, edited), 10) == {"old": 6, "new": 4}


def test_a_backend_that_was_rolled_back_moves_only_its_own_values() -> None:
    before = answers(table(OLD, NEW, canary(stickyHeader="X-User")))
    after = answers(table(OLD, NEW, canary(stickyHeader="X-User", rolled_back=True)))
    assert {before[user] for user in before if before[user] != after[user]} == {"new"}


def test_without_anybody_else_to_answer_what_was_rolled_back_is_named() -> None:
    with pytest.raises(ModelUnhealthy, match="canary new: 3 of 4 failed: it gets none until the route is edited"):
        table(NEW, canary(rolled_back=True)).pick({})


def test_a_backend_is_lost_only_while_another_can_answer_in_its_place() -> None:
    of = table(OLD, NEW, canary())
    trial = of.trials["new"]
    assert of.may_lose(trial)
    before = catalog(OLD, NEW, canary(), before=None)
    for other, may in [
        (table(OLD, NEW, canary(), before=before), True),
        (table(NEW, canary(), before=before), False),  # nobody else
        (table(OLD, NEW, canary(rolled_back=True), before=before), False),  # it is lost already
        (table(OLD, NEW, canary(2), before=before), False),  # that was another edition
    ]:
        (known,) = before.routes.values()
        assert other.may_lose(known.trials["new"]) is may


# ------------------------------------------------------------------------------------------------ copies


@pytest.mark.req("RM-4.3c")
@pytest.mark.parametrize("percent", [1, 10, 33, 100])
def test_exactly_so_many_requests_are_copied(percent: int) -> None:
    of = table(OLD, NEW, route({"old": 1}, mirror={"name": "new", "percent": percent}))
    copies = [of.copy_to() for _ in range(MANY)]
    assert sum(copy is not None for copy in copies) == MANY * percent // 100
    assert {copy.metadata.name for copy in copies if copy} == {"new"}


def test_a_mirror_may_serve_another_model_and_is_wanted() -> None:
    of = table(OLD, OTHER, route({"old": 1}, mirror={"name": "new"}))
    assert of.copy_to() is OTHER
    assert of.wanted == (Key("default", "new"),)


@pytest.mark.parametrize("broken", [(), (SUSPENDED,), (FAILED,)])
def test_a_mirror_that_cannot_answer_gets_no_copies_and_disturbs_nobody(broken: tuple[ModelDeployment, ...]) -> None:
    of = table(OLD, *broken, route({"old": 1}, mirror={"name": "new"}))
    assert of.copy_to() is None
    assert of.pick({}) is OLD


# ------------------------------------------------------------------------------------------------ the catalog


@pytest.mark.req("RM-1.2c")
def test_a_version_is_asked_for_past_the_route() -> None:
    of = catalog(OLD, NEW, route({"old": 1}))
    assert of.route("default", ModelRef("m", "2.0.0")) is None
    assert of.resolve("default", ModelRef("m", "2.0.0")) is NEW


def test_the_largest_share_stands_for_the_model() -> None:
    assert catalog(OLD, NEW, route({"old": 70, "new": 30})).resolve("default", BARE) is OLD
    assert catalog(OLD, NEW).resolve("default", BARE) is NEW


def test_a_route_of_another_namespace_says_nothing() -> None:
    theirs = deployed("old", "1.0.0", namespace="theirs")
    of = catalog(theirs, NEW, route({"old": 1}, namespace="theirs"))
    assert of.route("default", BARE) is None
    assert of.resolve("default", BARE) is NEW
    found = of.route("theirs", BARE)
    assert found
    assert found.pick({}) is theirs


def test_a_route_never_reaches_into_another_namespace() -> None:
    of = catalog(deployed("old", "1.0.0", namespace="theirs"), route({"old": 1}))
    found = of.route("default", BARE)
    assert found
    with pytest.raises(ModelUnhealthy):
        found.pick({})
    with pytest.raises(ModelNotFound):
        of.resolve("default", BARE)


def test_of_two_routes_for_a_model_the_older_counts() -> None:
    of = table(OLD, NEW, route({"new": 1}, name="a"), route({"old": 1}, name="b", age_s=60))
    assert picked(of, 10) == {"old": 10}
