"""The state that is followed, on an API whose answers a test decides."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelmora.control.kubernetes import KubernetesControl
from modelmora.control.leases import Holder
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import FORBIDDEN, NOT_FOUND, OPENED, PODS, Event, Kube, KubeError, Listed, Object, Resource
from modelmora.kube.following import Sight, State, follow_all
from tests.support.waiting import eventually


class Places(Kube):
    """Lists what is in each namespace, or fails; its watches say nothing and end when the test says so."""

    def __init__(self, **objects: list[str]) -> None:
        self.objects = objects
        self.failing: dict[str | None, KubeError | ServerUnavailable] = {}
        self.watches: dict[str | None, asyncio.Event] = {}

    def fail(self, namespace: str, error: KubeError | ServerUnavailable) -> None:
        """From now on; the watch that runs ends."""
        self.failing[namespace] = error
        if watch := self.watches.get(namespace):
            watch.set()

    async def list(self, resource: Resource, namespace: str | None = None, *, selector: str = "") -> Listed:
        self._refuse(namespace)
        return Listed(tuple(_pod(str(namespace), name) for name in self.objects[str(namespace)]), "1")

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, selector: str = "", resource_version: str
    ) -> AsyncIterator[Event]:
        self._refuse(namespace)
        ended = self.watches[namespace] = asyncio.Event()
        yield Event(OPENED, {})
        await ended.wait()
        self._refuse(namespace)

    def _refuse(self, namespace: str | None) -> None:
        if error := self.failing.get(namespace):
            raise error


def _pod(namespace: str, name: str) -> Object:
    return {"metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"}}


def forbidden(verb: str) -> KubeError:
    return KubeError(FORBIDDEN, "Forbidden", f"pods is forbidden: nobody may {verb} them")


@asynccontextmanager
async def followed(
    kube: Kube, *namespaces: str, gone_after_s: float, optional: bool = False, sight: Sight | None = None
) -> AsyncIterator[list[State]]:
    """Every state."""
    states: list[State] = []

    async def read() -> None:
        following = follow_all(kube, PODS, namespaces, gone_after_s=gone_after_s, optional=optional, sight=sight)
        async for state in following:
            states.append(state)  # noqa: PERF401 - there is no end

    task = asyncio.create_task(read())
    try:
        yield states
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def keys(states: list[State]) -> Any:
    return states and set(states[-1])


async def test_a_namespace_that_is_gone_takes_nothing_of_the_others_along() -> None:
    kube = Places(stays=["a"], goes=["b"])
    with capture_logs() as said:
        async with followed(kube, "stays", "goes", gone_after_s=0.2) as states:
            await eventually(lambda: keys(states) == {("stays", "a"), ("goes", "b")}, what="both")
            kube.fail("goes", forbidden("watch"))
            kube.failing["goes"] = forbidden("list")
            await eventually(lambda: keys(states) == {("stays", "a")}, what="the namespace to be gone")
            kube.objects["goes"], kube.failing = ["c"], {}
            await eventually(lambda: keys(states) == {("stays", "a"), ("goes", "c")}, what="its return")
    assert [(line["event"], line["where"]) for line in said] == [("cannot follow", "goes"), ("follows again", "goes")]
    assert "deleted" in said[0]["remedy"]


async def test_a_namespace_that_was_gone_before_keeps_nobody_waiting() -> None:
    kube = Places(stays=["a"], goes=[])
    kube.fail("goes", forbidden("list"))
    async with followed(kube, "stays", "goes", gone_after_s=0.2) as states:
        await eventually(lambda: keys(states) == {("stays", "a")}, what="the state of the other")


async def test_a_refusal_that_does_not_last_takes_nothing_away() -> None:
    kube = Places(one=["a"])
    async with followed(kube, "one", gone_after_s=60) as states:
        await eventually(lambda: keys(states) == {("one", "a")}, what="the state")
        kube.fail("one", forbidden("watch"))
        await asyncio.sleep(0.5)  # time to draw a wrong conclusion
        assert keys(states) == {("one", "a")}


async def test_an_api_that_cannot_be_reached_takes_nothing_away() -> None:
    kube = Places(one=["a"])
    async with followed(kube, "one", gone_after_s=0.0) as states:
        await eventually(lambda: keys(states) == {("one", "a")}, what="the state")
        kube.fail("one", ServerUnavailable("the Kubernetes API cannot be reached"))
        await asyncio.sleep(0.5)  # as above
        assert keys(states) == {("one", "a")}


async def test_what_cannot_be_seen_is_told_while_it_lasts_and_of_its_namespace_alone() -> None:
    kube, sight = Places(one=["a"], two=["b"]), Sight()
    async with followed(kube, "one", "two", gone_after_s=60, sight=sight) as states:
        await eventually(lambda: keys(states) == {("one", "a"), ("two", "b")}, what="the state")
        assert not sight.troubles
        for error in (ServerUnavailable("the Kubernetes API cannot be reached"), UNKNOWN, forbidden("watch")):
            kube.fail("one", error)
            await eventually(lambda: sight.troubles, what="the failure")
            assert sight.troubles == {"one": error}
            kube.failing = {}
            await eventually(lambda: not sight.troubles, what="its end, although nothing has changed meanwhile")


async def test_what_counts_as_gone_is_not_waited_for() -> None:
    kube, sight = Places(one=["a"]), Sight()
    async with followed(kube, "one", gone_after_s=0.2, sight=sight) as states:
        await eventually(lambda: keys(states) == {("one", "a")}, what="the state")
        kube.fail("one", forbidden("watch"))
        await eventually(lambda: sight.troubles, what="the failure")
        await eventually(lambda: states[-1] == {}, what="the namespace to be gone")
        await asyncio.sleep(0.5)  # it is tried again, in vain
        assert not sight.troubles


UNKNOWN = KubeError(NOT_FOUND, "NotFound", "404 page not found")


async def test_of_an_optional_kind_that_is_unknown_there_is_nothing_at_once_and_that_is_said() -> None:
    kube = Places(one=["a"])
    kube.failing["one"] = UNKNOWN
    with capture_logs() as said:
        async with followed(kube, "one", gone_after_s=60, optional=True) as states:
            await eventually(lambda: states == [{}], what="the empty state")
            kube.failing = {}
            await eventually(lambda: keys(states) == {("one", "a")}, what="what there is once it is known")
    assert [line["event"] for line in said] == ["cannot follow", "follows again"]


async def test_an_optional_kind_that_is_unknown_for_a_moment_takes_nothing_away() -> None:
    kube = Places(one=["a"])
    async with followed(kube, "one", gone_after_s=0.3, optional=True) as states:
        await eventually(lambda: keys(states) == {("one", "a")}, what="the state")
        kube.fail("one", UNKNOWN)
        assert keys(states) == {("one", "a")}
        await eventually(lambda: states[-1] == {}, what="its end, once it lasts")


@pytest.mark.parametrize("watched", ["one", None])
async def test_a_router_knows_of_which_namespaces_it_cannot_see_the_deployments(watched: str | None) -> None:
    kube = Places(**{"one": [], "two": [], "None": []})
    control = KubernetesControl(kube, Holder("one", "router-a"), ["one", "two"] if watched else [])
    told = control.watch_deployments()
    assert await anext(told) == {}
    assert not control.blind("one")
    waiting = asyncio.ensure_future(anext(told))
    await eventually(lambda: watched in kube.watches, what="the watch")
    kube.failing[watched] = UNKNOWN
    kube.watches[watched].set()
    await eventually(lambda: control.blind("one"), what="the failure")
    assert "404 page not found" in control.blind("one")
    assert bool(control.blind("two")) is (watched is None)
    waiting.cancel()
    await asyncio.wait([waiting])
