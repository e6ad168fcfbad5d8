"""What a router in a cluster writes into its Lease: its demand and its trips, both in every write."""

import pytest

from modelmora.control import Demand, Demands, Key, Trips
from modelmora.control.kubernetes import KubernetesControl
from modelmora.control.leases import Holder, demands_of, trips_of
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import Kube, Object, Resource
from tests.support.routes import trip

WANTED: Demands = {Key("default", "one"): Demand(1.0, 2.0)}
SAID: Trips = {Key("default", "route"): (trip(),)}


class Written(Kube):
    """Keeps what is applied."""

    def __init__(self) -> None:
        self.bodies: list[Object] = []
        self.refuses = False

    async def apply(
        self, resource: Resource, namespace: str, name: str, body: Object, *, manager: str, subresource: str = ""
    ) -> Object:
        if self.refuses:
            raise ServerUnavailable("no way to the API server")
        self.bodies.append(body)
        return body

    @property
    def said(self) -> list[tuple[Demands, Trips]]:
        return [(demands_of(body), trips_of(body)) for body in self.bodies]


@pytest.fixture
def kube() -> Written:
    return Written()


@pytest.fixture
def control(kube: Written) -> KubernetesControl:
    return KubernetesControl(kube, Holder("system", "router-a"))


@pytest.mark.req("RM-4.3b")
async def test_each_write_says_both_the_last_demand_and_the_last_trips(
    kube: Written, control: KubernetesControl
) -> None:
    await control.publish_demand(WANTED)
    await control.publish_trips(SAID)
    await control.publish_demand({})
    await control.publish_trips({})
    assert kube.said == [(WANTED, {}), (WANTED, SAID), ({}, SAID), ({}, {})]


async def test_before_the_first_demand_nothing_is_said_that_would_stop_models(
    kube: Written, control: KubernetesControl
) -> None:
    await control.publish_trips(SAID)
    assert kube.said == []
    await control.publish_demand(WANTED)
    assert kube.said == [(WANTED, SAID)]


async def test_trips_that_could_not_be_written_are_in_the_next_write(kube: Written, control: KubernetesControl) -> None:
    await control.publish_demand(WANTED)
    kube.refuses = True
    with pytest.raises(ServerUnavailable):
        await control.publish_trips(SAID)
    kube.refuses = False
    await control.publish_demand(WANTED)
    assert kube.said[-1] == (WANTED, SAID)
