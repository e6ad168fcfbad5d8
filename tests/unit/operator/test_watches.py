"""kopf's watches in their thread: what they hear, what they say when they cannot, and how they end."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import kopf
import pytest

from modelmora.kube.api import DEPLOYMENTS, PODS, Resource
from modelmora_operator.backends import watches
from modelmora_operator.backends.watches import Credentials, Watched, Watches, quiet_kopf
from tests.support.kopf_api import KopfApi, kopf_api
from tests.support.waiting import eventually

# Sockets that kopf leaves to the garbage collector when it is stopped; they are collected before a test ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

BOTH = (DEPLOYMENTS, PODS)


class Scene:
    """Watches of both kinds, and what they told."""

    def __init__(self, credentials: Credentials) -> None:
        self.heard: list[tuple[str, str]] = []
        self.ends = 0
        self.ahead_s = 0.0
        self.watches = Watches(Watched(BOTH), credentials, self._hear, self._end, clock=self._now)

    def _now(self) -> float:
        return time.monotonic() + self.ahead_s

    def _hear(self, resource: Resource, kind: str | None, item: Mapping[str, Any]) -> None:
        self.heard.append((resource.plural, item["metadata"]["name"]))

    def _end(self) -> None:
        self.ends += 1


@asynccontextmanager
async def watching(api: KopfApi, credentials: Credentials | None = None) -> AsyncIterator[Scene]:
    quiet_kopf(debug=False)
    scene = Scene(credentials or api.credentials)
    task = asyncio.create_task(scene.watches.run())
    try:
        yield scene
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        gc.collect()


async def until(condition: Callable[[], bool]) -> None:
    await eventually(lambda: condition() or None, what="what the watches tell")


async def test_what_is_watched_is_heard() -> None:
    async with kopf_api(*BOTH) as api, watching(api) as scene:
        await until(lambda: len(scene.heard) >= 2)
        assert sorted(scene.heard) == [("modeldeployments", "modeldeployments"), ("pods", "pods")]
        await until(lambda: scene.watches.problem == "")


@pytest.mark.req("REQ-REL-002")
async def test_a_kind_that_is_not_offered_yet_is_told_and_looked_for_again() -> None:
    async with kopf_api(PODS) as api, watching(api) as scene:
        await until(lambda: scene.ends > 0)
        assert "does not offer modeldeployments" in scene.watches.problem
        api.offered = set(BOTH)
        await until(lambda: ("modeldeployments", "modeldeployments") in scene.heard)


async def test_a_watch_that_is_refused_is_a_right_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "_ERROR_BACKOFFS_S", (0.01,))
    async with kopf_api(*BOTH) as api:
        api.watch_status = 403
        async with watching(api) as scene:
            await until(lambda: scene.ends > 0)
            assert scene.watches.refused
            assert "forbidden" in scene.watches.problem


async def test_a_thread_in_which_nothing_moves_is_told() -> None:
    async with kopf_api(*BOTH) as api, watching(api) as scene:
        await until(lambda: scene.watches.problem == "")
        scene.ahead_s = 90
        assert "nothing has moved" in scene.watches.problem


async def test_that_kopf_trips_over_a_watch_it_stops_is_no_error_and_anything_else_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def request_cancel_callback() -> None:  # as kopf's own, outside of any task
        raise AssertionError

    def something_else() -> None:
        raise RuntimeError("something else")

    async with kopf_api(*BOTH) as api:

        async def login() -> kopf.ConnectionInfo:
            for callback in (request_cancel_callback, something_else):
                asyncio.get_running_loop().call_soon(callback)  # kopf's
            return await api.credentials()

        async with watching(api, login) as scene:
            await until(lambda: scene.watches.problem == "")
    told = [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.exc_info]
    assert len(told) == 1
    assert "something_else" in told[0]
