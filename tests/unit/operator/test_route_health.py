"""A watch of routes that does not run shows in the health of the operator, as the others do."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio.client import Configuration

from modelmora.errors import ServerUnavailable
from modelmora.kube.api import FORBIDDEN, NOT_FOUND, OPENED, Event, KubeError, Listed, Resource
from modelmora_operator.cluster_settings import KubernetesOperatorSettings
from modelmora_operator.health import alive, ready, troubles, unreachable
from modelmora_operator.program import Program
from tests.support.operator_api import FakeKube
from tests.support.routing import eventually


class WatchedKube(FakeKube):
    """Its watches say nothing; one ends whenever the test says so."""

    configuration = Configuration()

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()
        self.listed = 0

    async def list(self, resource: Resource, namespace: str | None = None, *, selector: str = "") -> Listed:
        self.listed += 1
        return await super().list(resource, namespace, selector=selector)

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, selector: str = "", resource_version: str
    ) -> AsyncIterator[Event]:
        self._refuse("watch", resource)
        yield Event(OPENED, {})
        await self.end.wait()
        self.end.clear()
        self._refuse("watch", resource)


class Seen:
    """The program around the routes, which follows them on the fake API until the block ends."""

    def __init__(self) -> None:
        self.kube = WatchedKube()
        self.program = Program(KubernetesOperatorSettings(), self.kube)

    def said(self) -> list[str]:
        """What the health of the operator says of routes."""
        return [words for words in troubles(self.program.pulse()) if "modelroutes" in words]


@pytest.mark.req("REQ-REL-002")
async def test_the_health_of_the_operator_says_how_the_routes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Seen()
    scene.program.cluster.view.synced.set()
    following = asyncio.create_task(scene.program.routes.run())
    try:
        await eventually(lambda: scene.program.routes.reading.read_at)
        assert not scene.said()
        refused = KubeError(FORBIDDEN, "Forbidden", "modelroutes.modelmora.io is forbidden: nobody may")
        with scene.kube.refusing("watch", "ModelRoute", refused), scene.kube.refusing("list", "ModelRoute", refused):
            scene.kube.end.set()
            await eventually(scene.said)
            assert not ready(scene.program.pulse())
        await eventually(lambda: not scene.said())
        gone = ServerUnavailable("gone")
        with scene.kube.refusing("watch", "ModelRoute", gone), scene.kube.refusing("list", "ModelRoute", gone):
            scene.kube.end.set()
            await eventually(lambda: unreachable(scene.program.pulse()))
        await eventually(lambda: not unreachable(scene.program.pulse()))
        later = time.monotonic() + 130
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert scene.said() == ["modelroutes were listed last 130 s ago"]
        assert not alive(scene.program.pulse())
    finally:
        monkeypatch.undo()
        following.cancel()
        await asyncio.wait([following])


async def test_routes_that_the_api_server_does_not_know_are_no_trouble() -> None:
    scene = Seen()
    scene.program.cluster.view.synced.set()
    unknown = KubeError(NOT_FOUND, "NotFound", "404 page not found")
    with scene.kube.refusing("list", "ModelRoute", unknown):
        following = asyncio.create_task(scene.program.routes.run())
        await eventually(lambda: scene.program.routes.reading.read_at)
        for attempt in range(1, 5):
            await eventually(lambda count=attempt: scene.kube.listed >= count)  # type: ignore[misc]
            assert not scene.said()
        following.cancel()
        await asyncio.wait([following])
