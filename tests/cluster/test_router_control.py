"""The router's control on a real API server: what it sees of deployments and workers, and the Lease that it keeps."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from modelmora.control import Demand, Deployments, Key, Worker, Workers
from modelmora.control.kubernetes import KubernetesControl
from modelmora.control.leases import Holder, demands_of
from modelmora.errors import ServerUnavailable
from modelmora.kube import names
from modelmora.kube.api import DEPLOYMENTS, LEASES, NOT_FOUND, PODS, Kube, KubeError, Object
from modelmora.kube.following import follow
from tests.support.api_proxy import ApiProxy, api_proxy
from tests.support.cluster import kubectl, namespace  # noqa: F401 - fixtures
from tests.support.manifests import manifest
from tests.support.waiting import eventually, eventually_async

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KUBECONFIG = Path(os.environ.get("KUBECONFIG", ""))  # noqa: TID251 - a test run has no settings class


@pytest.fixture
async def kube() -> AsyncIterator[Kube]:
    """The API server, directly."""
    connection = await Kube.connect(KUBECONFIG)
    yield connection
    await connection.close()


class Site:
    """A namespace, and what the test puts there."""

    def __init__(self, kube: Kube, namespace: str) -> None:  # noqa: F811 - not the fixture
        self.kube = kube
        self.namespace = namespace

    async def deploy(self, name: str, **spec: Any) -> Object:
        body = manifest(name, **spec)
        return await self.kube.apply(DEPLOYMENTS, self.namespace, name, body, manager="test")

    async def pod(self, name: str, *, address: str = "", phase: str = "Running", **metadata: Any) -> Object:
        """A worker's pod that no node ever runs; it has the address that the test says."""
        body = {
            "metadata": {"labels": {names.COMPONENT: names.WORKER, names.DEPLOYMENT: "minilm"}, **metadata},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "worker", "image": "none:test"}]},
        }
        created = await self.kube.apply(PODS, self.namespace, name, body, manager="test")
        if not address:
            return created
        status = {"status": {"podIP": address, "podIPs": [{"ip": address}], "phase": phase}}
        return await self.kube.apply(PODS, self.namespace, name, status, manager="test", subresource="status")

    async def lease(self, name: str) -> Object | None:
        try:
            return await self.kube.get(LEASES, self.namespace, name)
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise
            return None


@pytest.fixture
def site(kube: Kube, namespace: str) -> Site:  # noqa: F811 - the fixture
    return Site(kube, namespace)


@asynccontextmanager
async def seen(watch: AsyncIterator[Any]) -> AsyncIterator[list[Any]]:
    """Every state that a watch yields."""
    states: list[Any] = []

    async def read() -> None:
        async for state in watch:
            states.append(state)  # noqa: PERF401 - the watch has no end

    task = asyncio.create_task(read())
    try:
        yield states
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def control_of(site: Site, name: str = "router-a", *, kube: Kube | None = None, uid: str = "") -> KubernetesControl:
    return KubernetesControl(kube or site.kube, Holder(site.namespace, name, uid), [site.namespace])


# ------------------------------------------------------------------------------------------------ what it sees


async def test_deployments_are_seen_as_they_come_change_and_go(site: Site) -> None:
    one, two = Key(site.namespace, "one"), Key(site.namespace, "two")
    async with seen(control_of(site).watch_deployments()) as states:
        await eventually(lambda: states == [{}], what="the first state")
        await site.deploy("one")
        await site.deploy("two")
        await eventually(lambda: states[-1].keys() == {one, two}, what="both")
        before: Deployments = states[-1]
        await site.deploy("one", suspend=True)
        await eventually(lambda: states[-1][one].spec.suspend, what="the change")
        assert states[-1][two] is before[two]  # not read again
        await site.kube.delete(DEPLOYMENTS, site.namespace, "one")
        await eventually(lambda: states[-1].keys() == {two}, what="the deletion")


async def test_a_worker_is_a_pod_with_an_address(site: Site) -> None:
    name = f"{site.namespace}/w"
    async with seen(control_of(site).watch_workers()) as states:
        await site.pod("w")
        await site.pod("other", address="10.9.0.9", labels={names.DEPLOYMENT: "minilm"})  # no worker
        await eventually(lambda: states == [{}], what="the first state")
        await site.pod("w", address="10.9.0.1")
        await eventually(lambda: states[-1], what="the worker")
        key = Key(site.namespace, "minilm")
        assert states[-1] == {name: Worker(name, key, "10.9.0.1:9100", "10.9.0.1:9101")}
        await site.pod("w", address="10.9.0.2")
        await eventually(lambda: states[-1][name].address == "10.9.0.2:9100", what="the new address")


async def test_a_pod_that_is_being_deleted_gets_nothing_new(site: Site) -> None:
    async with seen(control_of(site).watch_workers()) as states:
        await site.pod("w", address="10.9.0.1", finalizers=["modelmora.io/test"])
        await eventually(lambda: states and states[-1], what="the worker")
        await site.kube.delete(PODS, site.namespace, "w")
        await eventually(lambda: _only(states[-1]).terminating, what="the worker to be terminating")
        await site.pod("w", finalizers=[])
        await eventually(lambda: states[-1] == {}, what="its end")


async def test_a_pod_that_has_ended_is_no_worker(site: Site) -> None:
    async with seen(control_of(site).watch_workers()) as states:
        await site.pod("w", address="10.9.0.1")
        await eventually(lambda: states and states[-1], what="the worker")
        await site.pod("w", address="10.9.0.1", phase="Failed")
        await eventually(lambda: states[-1] == {}, what="its end")


async def test_two_hundred_deployments_are_seen_in_a_few_states(site: Site) -> None:
    async with seen(control_of(site).watch_deployments()) as states, asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(site.deploy(f"m{number}"))
        await eventually(lambda: states and len(states[-1]) == 200, what="all of them")
    async with seen(control_of(site).watch_deployments()) as states:
        await eventually(lambda: states, what="the first state")
        assert len(states[0]) == 200


def _only(workers: Workers) -> Worker:
    (worker,) = workers.values()
    return worker


# ------------------------------------------------------------------------------------------------ the Lease


async def test_the_lease_holds_the_demand_and_lives_as_long_as_the_router(site: Site) -> None:
    control, demands = control_of(site), {Key("models", "one"): Demand(1.5, 1_700_000_000.25, 3.0)}
    async with control.running():
        assert await site.lease("router-a") is None  # nothing was said yet
        await control.publish_demand({})
        lease = await site.lease("router-a")
        assert lease
        assert lease["metadata"]["labels"][names.COMPONENT] == names.ROUTER_DEMAND
        assert lease["spec"]["holderIdentity"] == "router-a"
        assert demands_of(lease) == {}
        await control.publish_demand(demands)
        lease = await site.lease("router-a")
        assert lease
        assert demands_of(lease) == demands
        await control.publish_demand({})
        assert demands_of(await site.lease("router-a") or {}) == {}
    assert await site.lease("router-a") is None


async def test_the_lease_is_renewed_though_nothing_changes(site: Site) -> None:
    control, demands = control_of(site), {Key("models", "one"): Demand(0, 1.0)}
    async with control.running():
        await control.publish_demand(demands)
        first = await site.lease("router-a")
        assert first

        async def renewed() -> Object | None:
            lease = await site.lease("router-a")
            return lease if lease and lease["spec"]["renewTime"] > first["spec"]["renewTime"] else None

        lease = await eventually_async(renewed, what="a renewal", within_s=10)
        assert demands_of(lease) == demands


async def test_the_lease_goes_with_the_pod_of_its_router(site: Site) -> None:
    pod = await site.pod("router-a")
    control = control_of(site, uid=pod["metadata"]["uid"])
    await control.publish_demand({})  # and no running(): a router that is killed
    await site.kube.delete(PODS, site.namespace, "router-a")

    async def gone() -> bool:
        return await site.lease("router-a") is None

    await eventually_async(gone, what="the lease to be collected", within_s=40)


async def test_each_router_has_its_own_lease(site: Site) -> None:
    one, other = control_of(site, "router-a"), control_of(site, "router-b")
    wanted = {Key("models", "one"): Demand(1, 1.0)}
    async with other.running():
        async with one.running():
            await one.publish_demand({})
            await other.publish_demand(wanted)
            assert demands_of(await site.lease("router-a") or {}) == {}
        assert await site.lease("router-a") is None
        assert demands_of(await site.lease("router-b") or {}) == wanted


# ------------------------------------------------------------------------------------------------ bad days


@pytest.fixture
def proxy(tmp_path: Path) -> Any:
    with api_proxy(KUBECONFIG, tmp_path) as forwarder:
        yield forwarder


@pytest.fixture
async def through(proxy: ApiProxy) -> AsyncIterator[Kube]:
    """The API server through the proxy; its watches are short, so that silence is noticed soon."""
    connection = await Kube.connect(proxy.kubeconfig, watch_s=2)
    yield connection
    await connection.close()


async def test_nothing_is_missed_where_a_watch_ends_in_410_gone(site: Site, proxy: ApiProxy) -> None:
    await site.deploy("one")
    patient = await Kube.connect(proxy.kubeconfig)
    async with seen(control_of(site, kube=patient).watch_deployments()) as states:
        await eventually(lambda: states and states[-1] and proxy.watches, what="the first state and a watch")
        proxy.silence()
        await site.kube.delete(DEPLOYMENTS, site.namespace, "one")
        await site.deploy("two")
        assert states[-1].keys() == {Key(site.namespace, "one")}
        proxy.inject_gone()
        await eventually(lambda: states[-1].keys() == {Key(site.namespace, "two")}, what="the state after a new list")
    assert sum(1 for request in proxy.seen if not request.watch) == 2  # a version that is gone is not asked for again
    await patient.close()


async def test_a_watch_that_goes_silent_is_noticed(site: Site, proxy: ApiProxy, through: Kube) -> None:
    async with seen(control_of(site, kube=through).watch_deployments()) as states:
        await eventually(lambda: states and proxy.watches, what="the first state and a watch")
        proxy.silence()
        await site.deploy("one")
        await eventually(lambda: states[-1], what="the deployment")


async def test_while_the_api_is_gone_the_state_stands(site: Site, proxy: ApiProxy, through: Kube) -> None:
    await site.deploy("one")
    control = control_of(site, kube=through)
    demands = {Key("models", "one"): Demand(1, 1.0)}
    async with control.running(), seen(control.watch_deployments()) as states:
        await control.publish_demand({})
        await eventually(lambda: states and states[-1], what="the first state")
        proxy.refuse()
        with pytest.raises(ServerUnavailable):
            await control.publish_demand(demands)
        await site.kube.delete(DEPLOYMENTS, site.namespace, "one")
        await asyncio.sleep(1)  # time to draw a wrong conclusion
        assert states[-1].keys() == {Key(site.namespace, "one")}
        proxy.resume()
        await eventually(lambda: states[-1] == {}, what="the deletion")

        async def stored() -> bool:  # by the renewal: nobody published again
            return demands_of(await site.lease("router-a") or {}) == demands

        await eventually_async(stored, what="the demand of meanwhile")


async def test_an_api_that_stalls_does_not_hold_a_publisher(site: Site, proxy: ApiProxy, through: Kube) -> None:
    control = control_of(site, kube=through)
    await control.publish_demand({})
    proxy.stall()
    with pytest.raises(ServerUnavailable, match="did not answer"):
        await control.publish_demand({})
    proxy.resume()
    await control.publish_demand({})


async def test_a_demand_that_is_refused_says_which_right_is_lacking(site: Site, proxy: ApiProxy, through: Kube) -> None:
    proxy.deny("PATCH", "/leases", message="leases.coordination.k8s.io is forbidden")
    with pytest.raises(ServerUnavailable, match="is forbidden") as refused:
        await control_of(site, kube=through).publish_demand({})
    assert "service account" in refused.value.context.remedy


async def test_a_watch_goes_on_where_it_stood_without_a_list(site: Site, proxy: ApiProxy, through: Kube) -> None:
    async with seen(follow(through, PODS, site.namespace)) as states:
        await eventually(lambda: states and proxy.watches, what="the first state and a watch")
        for _ in range(3):
            proxy.cut()
            await eventually(lambda: proxy.watches == 0, what="the end of the watch")
            await eventually(lambda: proxy.watches, what="the next watch")
        await site.pod("w", address="10.9.0.1")
        await eventually(lambda: states[-1], what="the pod")
    assert sum(1 for request in proxy.seen if not request.watch) == 1
