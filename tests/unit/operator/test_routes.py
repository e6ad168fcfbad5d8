"""What the status of a ModelRoute says, and when it is written."""

from typing import Any

import pytest

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import DEPLOYMENTS, ROUTES, KubeError
from modelmora.spec import Condition, ModelDeployment, ModelRoute, ModelRouteStatus
from modelmora_operator.backends.local_routes import LocalRoutes
from modelmora_operator.backends.routes import RouteStatuses
from modelmora_operator.backends.view import ClusterView
from modelmora_operator.backends.writes import Writes
from modelmora_operator.routes import statuses
from tests.support import routing
from tests.support.operator_api import FakeKube
from tests.support.operator_values import NOW
from tests.support.routes import key_of, route
from tests.support.routing import failed


def deployed(name: str, version: str, *, model_id: str = "m", **fields: Any) -> ModelDeployment:
    return routing.deployment(name, model={"id": model_id, "version": version}, **fields)


OLD, NEW = deployed("old", "1.0.0"), deployed("new", "2.0.0")


def status(of: ModelRoute, *others: ModelDeployment | ModelRoute) -> ModelRouteStatus:
    routes = {key_of(one): one for one in (of, *others) if isinstance(one, ModelRoute)}
    deployments = {routing.key_of(one): one for one in others if isinstance(one, ModelDeployment)}
    return statuses(routes, deployments, NOW)[key_of(of)]


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
    assert statuses({key_of(known): known}, deployments, NOW + 60)[key_of(known)] == known.status
    fallen = statuses({key_of(known): known}, {}, NOW + 60)[key_of(known)]
    ready = said(fallen)
    assert ready
    assert ready.last_transition_time.timestamp() == NOW + 60


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


# ------------------------------------------------------------------------------------------------ in a cluster


class Cluster:
    """The routes of a cluster, which a test tells what the watches would."""

    def __init__(self) -> None:
        self.kube, self.view = FakeKube(), ClusterView()
        self.statuses = RouteStatuses(self.kube, Writes(self.kube), self.view, clock=lambda: NOW)

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
