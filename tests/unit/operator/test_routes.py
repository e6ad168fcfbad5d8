"""What the status of a ModelRoute says, and when it is written."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelmora.control import Key, Trips
from modelmora.control.leases import lease
from modelmora.control.local import LocalControl
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import DEPLOYMENTS, EVENTS, LEASES, ROUTES, Event, KubeError, Resource
from modelmora.spec import Condition, ModelDeployment, ModelRoute, ModelRouteStatus
from modelmora_operator.backends.announcements import Announcements
from modelmora_operator.backends.local_routes import LocalRoutes
from modelmora_operator.backends.routes import RouteStatuses
from modelmora_operator.backends.view import ClusterView
from modelmora_operator.backends.writes import Writes
from modelmora_operator.routes import statuses
from tests.support import routing
from tests.support.operator_api import FakeKube
from tests.support.operator_values import NOW
from tests.support.routes import key_of, route, trip
from tests.support.routing import eventually, failed


def deployed(name: str, version: str, *, model_id: str = "m", **fields: Any) -> ModelDeployment:
    return routing.deployment(name, model={"id": model_id, "version": version}, **fields)


OLD, NEW = deployed("old", "1.0.0"), deployed("new", "2.0.0")


def status(
    of: ModelRoute, *others: ModelDeployment | ModelRoute, trips: Trips | None = None, now: float = NOW
) -> ModelRouteStatus:
    routes = {key_of(one): one for one in (of, *others) if isinstance(one, ModelRoute)}
    deployments = {routing.key_of(one): one for one in others if isinstance(one, ModelDeployment)}
    return statuses(routes, deployments, trips or {}, now)[key_of(of)]


def said(of: ModelRouteStatus, kind: str = "Ready") -> Condition | None:
    return next((one for one in of.conditions if one.type == kind), None)


def verdict(of: ModelRouteStatus, kind: str = "Ready") -> tuple[str, str] | None:
    found = said(of, kind)
    return (str(found.status), found.reason) if found else None


def weights(of: ModelRouteStatus) -> dict[str, int]:
    return {backend.name: backend.weight for backend in of.backends}


def test_a_route_that_works_says_its_shares() -> None:
    of = status(route({"old": 3, "new": 1}), OLD, NEW)
    assert weights(of) == {"old": 3, "new": 1}
    assert (verdict(of), verdict(of, "Stalled")) == (("True", "Routed"), None)
    ready = said(of)
    assert ready
    assert ready.message == "old 75.0%, new 25.0%"
    assert (of.observed_generation, ready.observed_generation) == (1, 1)


@pytest.mark.parametrize(
    ("broken", "reason", "stalled"),
    [
        ((), "BackendMissing", True),
        ((deployed("new", "2.0.0", model_id="other"),), "WrongModel", True),
        ((deployed("new", "1.0.0"),), "DuplicateVersion", True),
        ((deployed("new", "2.0.0", suspend=True),), "Suspended", False),
        ((deployed("new", "2.0.0", status=failed()),), "FailedToLoad", False),
    ],
)
def test_a_backend_that_cannot_answer_is_told(broken: tuple[ModelDeployment, ...], reason: str, stalled: bool) -> None:
    older = deployed("old", "1.0.0", metadata={"creation_timestamp": routing.MOMENT})
    partly = status(route({"old": 1, "new": 1}), older, *broken)
    assert weights(partly) == {"old": 1, "new": 0}
    assert verdict(partly) == ("True", "PartlyRouted")
    ready = said(partly)
    assert ready
    assert "'new'" in ready.message
    assert verdict(partly, "Stalled") == (("True", reason) if stalled else None)

    alone = status(route({"new": 1}), older, *broken)
    assert verdict(alone) == ("False", reason)


def test_what_is_wrong_with_very_many_backends_is_cut_to_what_a_condition_may_hold() -> None:
    names = [f"b{number}" for number in range(64)]
    wrong = [deployed(name, f"3.0.{number}", status=failed(message="x" * 4000)) for number, name in enumerate(names)]
    partly = status(route({"old": 1} | dict.fromkeys(names[1:], 1)), OLD, *wrong)
    assert verdict(partly) == ("True", "PartlyRouted")
    ready = said(partly)
    assert ready
    assert ready.message.startswith("old 100.0%; 'b1' cannot be loaded: xxx")
    assert ready.message.endswith("…")
    assert verdict(status(route(dict.fromkeys(names, 1)), *wrong)) == ("False", "FailedToLoad")


def test_a_backend_without_a_weight_may_be_missing() -> None:
    assert verdict(status(route({"old": 1, "new": 0}), OLD)) == ("True", "Routed")


def test_a_mirror_that_is_missing_is_told_and_takes_nothing_from_the_answers() -> None:
    of = status(route({"old": 1}, mirror={"name": "gone"}), OLD)
    assert (verdict(of), verdict(of, "Stalled")) == (("True", "Routed"), ("True", "BackendMissing"))


def test_of_two_routes_the_younger_is_told_which_one_counts() -> None:
    younger, older = route({"new": 1}, name="a"), route({"old": 1}, name="b", age_s=60)
    of = status(younger, older, OLD, NEW)
    assert weights(of) == {"new": 0}
    assert (verdict(of), verdict(of, "Stalled")) == (("False", "DuplicateRoute"), ("True", "DuplicateRoute"))
    ready = said(of)
    assert ready
    assert "b is older" in ready.message
    assert verdict(status(older, younger, OLD, NEW)) == ("True", "Routed")


def test_routes_of_other_namespaces_and_models_are_no_rivals() -> None:
    others = route({"old": 1}, namespace="theirs", age_s=60), route({"old": 1}, name="b", model_id="x", age_s=60)
    assert verdict(status(route({"old": 1}), *others, OLD)) == ("True", "Routed")


def test_the_time_of_a_transition_moves_only_with_the_verdict() -> None:
    before = route({"old": 1})
    known = before.model_copy(update={"status": status(before, OLD)})
    deployments = {routing.key_of(OLD): OLD}
    assert statuses({key_of(known): known}, deployments, {}, NOW + 60)[key_of(known)] == known.status
    fallen = statuses({key_of(known): known}, {}, {}, NOW + 60)[key_of(known)]
    ready = said(fallen)
    assert ready
    assert ready.last_transition_time.timestamp() == NOW + 60


# ------------------------------------------------------------------------------------------------ rolled back

WHY = "14 of 52 requests of 60 s failed (InferenceFailed)"
SAID: Trips = {Key("default", "route"): (trip("new", message=WHY),)}


def canary(generation: int = 1, *, known: ModelRouteStatus | None = None, **weights: int) -> ModelRoute:
    of = route(weights or {"old": 95, "new": 5}, generation=generation, rollback={"errorPercent": 10})
    return of.model_copy(update={"status": known}) if known else of


@pytest.mark.req("RM-4.3b")
def test_a_backend_that_was_rolled_back_is_told_and_only_an_edit_heals_it() -> None:
    of = status(canary(), OLD, NEW, trips=SAID)
    assert weights(of) == {"old": 95, "new": 0}
    assert (verdict(of), verdict(of, "Stalled")) == (("True", "RolledBack"), ("True", "RolledBack"))
    ready, (told,) = said(of), of.rolled_back
    assert ready
    assert ready.message == f"old 100.0%; canary new: {WHY}: it gets none until the route is edited"
    assert (told.name, told.generation, told.at.timestamp(), told.message) == ("new", 1, NOW, WHY)


@pytest.mark.req("RM-4.3b")
def test_what_was_rolled_back_stays_so_when_no_router_says_it_any_more() -> None:
    known = status(canary(), OLD, NEW, trips=SAID)
    assert status(canary(known=known), OLD, NEW, now=NOW + 60) == known
    again: Trips = {Key("default", "route"): (trip("new", message="another router's words"),)}
    assert status(canary(known=known), OLD, NEW, trips=again, now=NOW + 60) == known


@pytest.mark.req("RM-4.3b")
def test_an_edit_of_the_route_gives_its_weight_back_whatever_is_still_said() -> None:
    known = status(canary(), OLD, NEW, trips=SAID)
    of = status(canary(2, known=known, old=90, new=10), OLD, NEW, trips=SAID)
    assert (weights(of), of.rolled_back) == ({"old": 90, "new": 10}, ())
    assert (verdict(of), verdict(of, "Stalled")) == (("True", "Routed"), None)


def test_without_the_main_backend_a_route_whose_canary_was_rolled_back_answers_nobody() -> None:
    of = status(canary(), NEW, trips=SAID)
    assert weights(of) == {"old": 0, "new": 0}
    assert verdict(of) == ("False", "BackendMissing")
    ready = said(of)
    assert ready
    assert WHY in ready.message


def test_a_rollback_is_the_reason_before_other_backends_that_cannot_answer() -> None:
    third = deployed("third", "3.0.0", status=failed())
    of = status(canary(old=90, third=5, new=5), OLD, NEW, third, trips=SAID)
    assert verdict(of) == ("True", "RolledBack")
    assert weights(of) == {"old": 90, "third": 0, "new": 0}


# ------------------------------------------------------------------------------------------------ on one machine


def test_on_one_machine_the_status_follows_the_deployments() -> None:
    control = LocalControl()
    local, key = LocalRoutes(control, clock=lambda: NOW), Key("default", "route")
    control.deployments.set({routing.key_of(OLD): OLD})
    local.replace({key: route({"old": 1, "new": 1})})
    assert control.routes.value
    assert verdict(control.routes.value[key].status) == ("True", "PartlyRouted")
    control.deployments.set({routing.key_of(one): one for one in (OLD, NEW)})
    local.replace({key: route({"old": 1, "new": 1})})
    assert verdict(control.routes.value[key].status) == ("True", "Routed")
    local.replace({})
    assert control.routes.value == {}


@pytest.mark.req("RM-4.3b")
async def test_on_one_machine_the_status_follows_what_the_router_rolls_back() -> None:
    control, key = LocalControl(), Key("default", "route")
    local = LocalRoutes(control, clock=lambda: NOW)
    control.deployments.set({routing.key_of(one): one for one in (OLD, NEW)})
    local.replace({key: canary()})
    following = asyncio.create_task(local.run())
    try:
        await control.publish_trips(SAID)
        await eventually(lambda: verdict(told(control, key)) == ("True", "RolledBack"))
        await control.publish_trips({})
        local.replace({key: canary(2)})
        await eventually(lambda: verdict(told(control, key)) == ("True", "Routed"))
    finally:
        following.cancel()


def told(control: LocalControl, key: Key) -> ModelRouteStatus:
    assert control.routes.value
    return control.routes.value[key].status


# ------------------------------------------------------------------------------------------------ in a cluster


class Cluster:
    """The routes of a cluster, which a test tells what the watches would."""

    def __init__(self, kube: FakeKube | None = None) -> None:
        self.kube, self.view = kube or FakeKube(), ClusterView()
        self.now, writes = NOW, Writes(self.kube)
        self.announcements = Announcements(writes, clock=lambda: self.now)
        self.statuses = RouteStatuses(
            self.kube, writes, self.view, announcements=self.announcements, clock=lambda: self.now
        )

    def say(self, router: str, trips: Trips, *, version: int = 1) -> None:
        """A router's Lease has changed."""
        self.view.heard(LEASES, "MODIFIED", stamped(lease(router, {}, NOW, trips), router, version), 0.0)

    def leave(self, router: str) -> None:
        self.view.heard(LEASES, "DELETED", stamped(lease(router, {}, NOW), router, 99), 0.0)

    async def events(self, number: int) -> list[tuple[str, str, str, str]]:
        """The kind that each is about, its type, its reason and its words, once there are so many."""
        announcing = asyncio.create_task(self.announcements.run())
        try:
            await eventually(lambda: len(self.kube.of(EVENTS)) >= number)
        finally:
            announcing.cancel()
        return [
            (one["involvedObject"]["kind"], one["type"], one["reason"], one["message"]) for one in self.kube.of(EVENTS)
        ]

    def deploy(self, of: ModelDeployment) -> None:
        self.view.heard(DEPLOYMENTS, "ADDED", self.kube.put_deployment(of), 0.0)

    def look(self) -> None:
        self.statuses.take(
            {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in self.kube.of(ROUTES)}
        )

    @property
    def writes(self) -> list[str]:
        return [name for verb, kind, name in self.kube.writes if (verb, kind) == ("apply", "ModelRoute")]

    def stored(self) -> ModelRoute:
        (item,) = self.kube.of(ROUTES)
        return ModelRoute.stored(item)


def stamped(body: dict[str, Any], name: str, version: int) -> dict[str, Any]:
    """As the API server gives it out."""
    known = {"name": name, "namespace": "system", "resourceVersion": str(version)}
    return {**body, "metadata": {**body["metadata"], **known}}


@pytest.fixture
def cluster() -> Cluster:
    of = Cluster()
    of.deploy(OLD)
    of.kube.put(ROUTES, route({"old": 1, "new": 1}).manifest())
    of.look()
    return of


async def test_in_a_cluster_a_status_is_written_once(cluster: Cluster) -> None:
    assert await cluster.statuses.write()
    assert await cluster.statuses.write()  # the watch has not told of it yet
    assert cluster.writes == ["route"]
    cluster.look()
    assert await cluster.statuses.write()
    assert cluster.writes == ["route"]
    assert verdict(cluster.stored().status) == ("True", "PartlyRouted")


async def test_in_a_cluster_a_change_is_written(cluster: Cluster) -> None:
    await cluster.statuses.write()
    cluster.deploy(NEW)
    assert await cluster.statuses.write()
    assert cluster.writes == ["route", "route"]
    assert weights(cluster.stored().status) == {"old": 1, "new": 1}


async def test_what_somebody_else_wrote_into_the_status_is_put_right(cluster: Cluster) -> None:
    await cluster.statuses.write()
    cluster.kube.change(ROUTES, "route", status={"backends": [{"name": "old", "weight": 77}]})
    cluster.look()
    assert await cluster.statuses.write()
    assert weights(cluster.stored().status) == {"old": 1, "new": 0}


@pytest.mark.parametrize("error", [KubeError(500, "InternalError", "no"), ServerUnavailable("no way")])
async def test_a_write_that_fails_is_due_again(cluster: Cluster, error: KubeError | ServerUnavailable) -> None:
    with cluster.kube.refusing("apply", "ModelRoute", error):
        assert not await cluster.statuses.write()
    assert await cluster.statuses.write()
    assert cluster.writes == ["route", "route"]


async def test_a_route_that_is_gone_is_not_written(cluster: Cluster) -> None:
    cluster.kube.gone(ROUTES, "route")
    assert await cluster.statuses.write()
    assert cluster.kube.of(ROUTES) == []


@pytest.fixture
def trying() -> Cluster:
    """With a canary that can answer, and its status written."""
    of = Cluster()
    for one in (OLD, NEW):
        of.deploy(one)
    of.kube.put(ROUTES, canary().manifest())
    of.look()
    return of


@pytest.mark.req("RM-4.3b")
async def test_in_a_cluster_what_a_router_rolled_back_is_written_announced_once_and_outlives_its_lease(
    trying: Cluster,
) -> None:
    await trying.statuses.write()
    trying.say("router-a", SAID)
    assert await trying.statuses.write()
    assert weights(trying.stored().status) == {"old": 95, "new": 0}
    assert verdict(trying.stored().status) == ("True", "RolledBack")
    trying.look()
    trying.leave("router-a")
    assert await trying.statuses.write()
    trying.say("router-b", SAID)
    assert await trying.statuses.write()
    assert trying.writes == ["route", "route"]
    assert verdict(trying.stored().status) == ("True", "RolledBack")
    words = f"canary new: {WHY}: it gets none until the route is edited"
    assert await trying.events(1) == [("ModelRoute", "Warning", "RolledBack", words)]


@pytest.mark.req("RM-4.3b")
async def test_in_a_cluster_an_operator_that_begins_anew_knows_what_was_rolled_back(trying: Cluster) -> None:
    trying.say("router-a", SAID)
    await trying.statuses.write()
    anew = Cluster()
    for one in (OLD, NEW):
        anew.deploy(one)
    anew.kube.put(ROUTES, trying.kube.of(ROUTES)[0])
    anew.look()
    assert await anew.statuses.write()
    assert verdict(anew.stored().status) == ("True", "RolledBack")
    assert anew.kube.of(EVENTS) == []


async def test_in_a_cluster_trips_of_several_routers_add_up_and_go_with_their_leases(
    trying: Cluster,
) -> None:
    other: Trips = {Key("default", "other"): (trip("x", uid="uid-other"),)}
    trying.say("router-a", SAID)
    trying.say("router-b", other)
    assert trying.view.trips.value == {**SAID, **other}
    trying.say("router-b", {}, version=2)
    assert trying.view.trips.value == SAID
    trying.leave("router-a")
    assert trying.view.trips.value == {}


async def test_a_rollback_that_is_long_known_is_not_announced_with_what_changes_later(trying: Cluster) -> None:
    trying.say("router-a", SAID)
    await trying.statuses.write()
    trying.look()
    trying.now += 3600
    trying.deploy(deployed("old", "1.0.0", suspend=True))
    assert await trying.statuses.write()
    assert verdict(trying.stored().status) == ("False", "Suspended")
    assert len(await trying.events(1)) == 1


async def test_a_rollback_whose_status_was_not_written_is_announced_when_it_is(trying: Cluster) -> None:
    trying.say("router-a", SAID)
    with trying.kube.refusing("apply", "ModelRoute", ServerUnavailable("no way")):
        assert not await trying.statuses.write()
    assert await trying.statuses.write()
    assert len(await trying.events(1)) == 1


class Silent(FakeKube):
    """Its watches say nothing."""

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, selector: str = "", resource_version: str
    ) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        raise AssertionError(f"a watch of {resource.plural} woke")
        yield


@pytest.mark.req("RM-4.3b")
async def test_in_a_cluster_what_a_router_says_is_written_without_another_change() -> None:
    of = Cluster(Silent())
    for one in (OLD, NEW):
        of.deploy(one)
    of.kube.put(ROUTES, canary().manifest())
    of.view.synced.set()
    running = asyncio.create_task(of.statuses.run())
    try:
        await eventually(lambda: verdict(of.stored().status) == ("True", "Routed"))
        of.say("router-a", SAID)
        await eventually(lambda: verdict(of.stored().status) == ("True", "RolledBack"))
    finally:
        running.cancel()
