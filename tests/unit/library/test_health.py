"""The health of a program, for those who ask once and those who watch."""

from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from modelmora.wire.health import HealthService, Response

NAME = "modelmora.v1.WorkerService"


class _Context:
    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise LookupError(code, details)


def context() -> Any:
    return _Context()


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", NAME])
async def test_every_watcher_hears_of_every_change_also_when_another_leaves(service: str) -> None:
    health = HealthService([NAME])
    first, second = (cast("Any", health.Watch(asked(service), context())) for _ in range(2))
    assert [(await anext(watch)).status for watch in (first, second)] == [Response.NOT_SERVING] * 2
    await first.aclose()
    health.set(serving=True)
    assert (await anext(second)).status == Response.SERVING
    health.end()
    assert [answer.status async for answer in second] == [Response.NOT_SERVING]


async def test_an_unknown_service_is_not_found_and_may_be_watched() -> None:
    health = HealthService([NAME])
    with pytest.raises(LookupError) as caught:
        await health.Check(asked("nobody"), context())
    assert caught.value.args[0] is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(asked("nobody"), context())
    assert (await anext(watch)).status == Response.SERVICE_UNKNOWN
    health.end()
    assert [answer async for answer in watch] == []


async def test_whoever_asks_once_gets_the_state_of_now() -> None:
    health = HealthService([NAME])
    assert (await health.Check(asked(NAME), context())).status == Response.NOT_SERVING
    health.set(serving=True)
    assert (await health.Check(asked(""), context())).status == Response.SERVING


async def test_who_asks_whether_it_lives_hears_yes_until_the_end() -> None:
    health = HealthService([NAME], alive=["live"])
    assert (await health.Check(asked("live"), context())).status == Response.SERVING
    watch = cast("Any", health.Watch(asked("live"), context()))
    assert (await anext(watch)).status == Response.SERVING
    health.set(serving=True)
    health.set(serving=False)
    assert (await health.Check(asked("live"), context())).status == Response.SERVING
    assert (await health.Check(asked(""), context())).status == Response.NOT_SERVING
    health.end()
    assert [answer.status async for answer in watch] == [Response.NOT_SERVING]
