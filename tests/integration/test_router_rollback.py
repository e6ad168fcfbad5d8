"""A canary that fails in real routers: it loses its requests by itself, and gets them back by an edit of the route."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from modelmora.control import Key, Trips
from modelmora.control.local import LocalControl
from modelmora.errors import InferenceFailed, InvalidRequest, ModelMoraError, ServerUnavailable
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora.v1 import worker_pb2
from modelmora.wire.status import to_rpc
from modelmora_operator.backends.local_routes import LocalRoutes
from tests.support import routing
from tests.support.fake_worker import FakeWorker, Respond, echo, fake_worker
from tests.support.routes import route
from tests.support.routing import Router, eventually, running_router

pytestmark = pytest.mark.req("RM-4.3b")

BODY = {"input": {"text": "hello"}}
LEAST = 4
KEY = Key("default", "route")


def deployed(name: str, version: str, **spec: Any) -> ModelDeployment:
    return routing.deployment(name, model={"id": "m", "version": version}, **spec)


OLD, NEW, SHADOW = deployed("old", "1.0.0"), deployed("new", "2.0.0"), deployed("shadow", "3.0.0")


def failing(error: ModelMoraError) -> Respond:
    return lambda entry: worker_pb2.EntryResult(entry_id=entry.entry_id, error=to_rpc(error))


BROKEN = failing(InferenceFailed("the weights are no good"))


def canary(generation: int = 1, *, old: int = 50, new: int = 50, **spec: Any) -> ModelRoute:
    limits = {"rollback": {"errorPercent": 50, "minRequests": LEAST}}
    return route({"old": old, "new": new}, generation=generation, **(limits | spec))


async def ask(router: Router, path: str = "m", **fields: Any) -> str:
    """The version that answered, or the code of the failure."""
    answer = await router.http.post(f"/api/v1/infer/{path}", json=BODY | fields)
    said = answer.json()
    return str(said["version"] if answer.is_success else said["code"])


async def answers(router: Router, requests: int, path: str = "m") -> Counter[str]:
    return Counter([await ask(router, path) for _ in range(requests)])


class Deaf(LocalControl):
    """Cannot be told of trips, at first."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def publish_trips(self, trips: Trips) -> None:
        if trips and self.refusals:
            self.refusals -= 1
            raise ServerUnavailable("no way to the API server")
        await super().publish_trips(trips)


class Site:
    """Routers of one control, the operator's part of it, and a worker for each deployment."""

    def __init__(self, control: LocalControl, routers: list[Router], workers: dict[str, FakeWorker]) -> None:
        self.control = control
        self.router, *self.others = routers
        self.canary, self.shadow = workers["new"], workers["shadow"]
        self.local = LocalRoutes(control)

    def edit(self, of: ModelRoute) -> None:
        """This is the only route from now on."""
        self.local.replace({KEY: of})

    @property
    def rolled_back(self) -> list[str]:
        """What the status of the route says."""
        return [one.name for one in (self.control.routes.value or {})[KEY].status.rolled_back]

    async def metric(self, name: str) -> list[str]:
        text = (await self.router.http.get("/metrics")).text
        return [line for line in text.splitlines() if line.startswith(name) and 'version="2.0.0"' in line]


@asynccontextmanager
async def site(
    of: ModelRoute,
    respond: Respond = BROKEN,
    *,
    new: ModelDeployment = NEW,
    routers: int = 1,
    control: LocalControl | None = None,
) -> AsyncIterator[Site]:
    """Each of its routers has reached each of the workers."""
    control, models = control or LocalControl(), (OLD, new, SHADOW)
    async with AsyncExitStack() as stack:
        workers = {
            model.metadata.name: await stack.enter_async_context(fake_worker(f"default/{model.metadata.name}"))
            for model in models
        }
        running = [await stack.enter_async_context(running_router(*models, control=control)) for _ in range(routers)]
        control.workers.set({one.worker_id: one.listed(Key("default", name)) for name, one in workers.items()})
        for router in running:
            assert [await ask(router, f"m@{model.version}") for model in models] == ["1.0.0", "2.0.0", "3.0.0"]
        made = Site(control, running, workers)
        made.edit(of)
        made.canary.respond = respond
        following = asyncio.create_task(made.local.run())
        try:
            yield made
        finally:
            following.cancel()


async def test_a_canary_that_fails_fails_no_more_callers_than_it_must() -> None:
    async with site(canary()) as made:
        assert await answers(made.router, 60) == {"1.0.0": 60 - LEAST, "INFERENCE_FAILED": LEAST}
        await eventually(lambda: made.rolled_back == ["new"])
        (status,) = (route.status for route in (made.control.routes.value or {}).values())
        assert status.rolled_back[0].message == "4 of 4 requests of 60 s failed (InferenceFailed)"
        assert [line.rpartition(" ")[2] for line in await made.metric("modelmora_route_rollbacks_total")] == ["1.0"]
        assert made.control.trips.value == {}  # once it stands in the status, it need not be said


async def test_an_edit_of_the_route_gives_the_canary_its_requests_again() -> None:
    async with site(canary()) as made:
        await answers(made.router, 10)
        await eventually(lambda: made.rolled_back)
        made.canary.respond = echo
        assert await answers(made.router, 4) == {"1.0.0": 4}  # it is mended, but nobody said so
        made.edit(canary(2))
        await eventually(lambda: not made.rolled_back)
        assert await answers(made.router, 20) == {"1.0.0": 10, "2.0.0": 10}


async def test_a_canary_that_fails_again_after_the_edit_is_rolled_back_again() -> None:
    async with site(canary()) as made:
        await answers(made.router, 20)
        await eventually(lambda: made.rolled_back)
        made.edit(canary(2))
        await eventually(lambda: not made.rolled_back)
        assert (await answers(made.router, 40))["INFERENCE_FAILED"] == LEAST
        await eventually(lambda: made.rolled_back)


async def test_another_router_follows_though_it_has_seen_no_failure() -> None:
    async with site(canary(), routers=2) as made:
        await answers(made.router, 20)
        await eventually(lambda: made.rolled_back)
        assert await answers(made.others[0], 10) == {"1.0.0": 10}


async def test_a_router_that_cannot_tell_rolls_back_all_the_same_and_tells_later() -> None:
    control = Deaf(refusals=2)
    async with site(canary(), control=control) as made:
        assert (await answers(made.router, 40))["INFERENCE_FAILED"] == LEAST
        await eventually(lambda: made.rolled_back)
        assert control.refusals == 0


@pytest.mark.parametrize(
    "of",
    [route({"old": 50, "new": 50}), canary(old=40, new=60), canary(rollback={"errorPercent": 50, "minRequests": 1000})],
    ids=["not asked for", "the main backend", "too few requests"],
)
async def test_who_may_not_be_rolled_back_keeps_failing(of: ModelRoute) -> None:
    async with site(of) as made:
        share = of.spec.backends[1].weight
        assert (await answers(made.router, 100))["INFERENCE_FAILED"] == share
        assert made.rolled_back == []


async def test_a_canary_that_fails_less_often_than_it_may_keeps_its_requests() -> None:
    async with site(canary(), echo) as made:

        def respond(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
            return echo(entry) if len(made.canary.finished) % 3 else BROKEN(entry)

        made.canary.respond = respond
        assert (await answers(made.router, 60))["INFERENCE_FAILED"] == 10
        assert made.rolled_back == []


async def test_what_a_caller_did_wrong_rolls_nothing_back() -> None:
    async with site(canary(), failing(InvalidRequest("no such word", field="input.text"))) as made:
        assert await answers(made.router, 40) == {"1.0.0": 20, "INVALID_REQUEST": 20}
        assert made.rolled_back == []


async def test_callers_that_ran_out_of_their_own_time_roll_nothing_back() -> None:
    async with site(canary()) as made:
        made.canary.hold()
        codes = Counter([await ask(made.router, timeoutSeconds=0.05) for _ in range(4 * LEAST)])
        assert codes["DEADLINE_EXCEEDED"] >= 2 * LEAST
        assert made.rolled_back == []


async def test_a_canary_that_hangs_for_as_long_as_its_deployment_allows_is_rolled_back() -> None:
    async with site(canary(), new=deployed("new", "2.0.0", queue={"timeoutSeconds": 1})) as made:
        made.canary.hold()
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(ask(made.router)) for _ in range(2 * LEAST)]
        assert Counter(one.result() for one in asked) == {"1.0.0": LEAST, "DEADLINE_EXCEEDED": LEAST}
        await eventually(lambda: made.rolled_back)
        assert await answers(made.router, 4) == {"1.0.0": 4}


async def test_who_asks_for_the_version_itself_is_not_counted() -> None:
    async with site(canary()) as made:
        assert (await answers(made.router, 20, "m@2.0.0")) == {"INFERENCE_FAILED": 20}
        assert made.rolled_back == []
        assert await answers(made.router, 2) == {"1.0.0": 1, "INFERENCE_FAILED": 1}


async def test_a_shadow_that_fails_rolls_nothing_back() -> None:
    async with site(canary(mirror={"name": "shadow"}), echo) as made:
        made.shadow.respond = BROKEN
        assert await answers(made.router, 20) == {"1.0.0": 10, "2.0.0": 10}
        await eventually(lambda: len(made.shadow.finished) > 2 * LEAST)
        assert made.rolled_back == []
