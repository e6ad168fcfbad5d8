"""A ModelRoute in a real router: split, canary, sticky, mirror; each deployment has a worker of its own."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from modelmora.control import Key
from modelmora.errors import InferenceFailed
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora.v1 import types_pb2, worker_pb2
from modelmora.wire.status import to_rpc
from tests.support import routing
from tests.support.fake_worker import FakeWorker, echo, fake_worker
from tests.support.routes import key_of, route
from tests.support.routing import Router, eventually, running_router

BODY = {"input": {"text": "hello"}}


def deployed(name: str, version: str, **fields: Any) -> ModelDeployment:
    return routing.deployment(name, model={"id": "m", "version": version}, **fields)


OLD, NEW = deployed("old", "1.0.0"), deployed("new", "2.0.0")


def fail(entry: worker_pb2.BatchEntry) -> worker_pb2.EntryResult:
    error = InferenceFailed("the shadow does not like it", remedy="look at it")
    return worker_pb2.EntryResult(entry_id=entry.entry_id, error=to_rpc(error))


class Traffic:
    """A router, the worker of `old`, and the worker of `new`."""

    def __init__(self, router: Router, old: FakeWorker, new: FakeWorker) -> None:
        self.router = router
        self.old, self.new = old, new
        router.control.workers.set(
            {one.worker_id: one.listed(Key("default", name)) for one, name in ((old, "old"), (new, "new"))}
        )

    def route(self, of: ModelRoute) -> None:
        """This is the only route from now on."""
        self.router.control.routes.set({key_of(of): of})

    async def ask(self, path: str = "m", **headers: str) -> str:
        """The version that answered."""
        answer = await self.router.http.post(f"/api/v1/infer/{path}", json=BODY, headers=headers)
        assert answer.status_code == 200, answer.text
        version: str = answer.json()["version"]
        return version

    async def answered(self, requests: int, **headers: str) -> Counter[str]:
        return Counter([await self.ask(**headers) for _ in range(requests)])

    async def serve(self) -> None:
        """Returns once both answer."""
        for version in ("1.0.0", "2.0.0"):
            await self.ask(f"m@{version}")
        self.old.received.clear()
        self.new.received.clear()


@asynccontextmanager
async def traffic(of: ModelRoute, **workers: Any) -> AsyncIterator[Traffic]:
    async with (
        fake_worker("default/o") as old,
        fake_worker("default/n", **workers) as new,
        running_router(OLD, NEW) as router,
    ):
        made = Traffic(router, old, new)
        made.route(of)
        yield made


@pytest.mark.req("RM-4.3a")
async def test_requests_are_split_by_weight() -> None:
    async with traffic(route({"old": 70, "new": 30})) as made:
        await made.serve()
        assert await made.answered(100) == {"1.0.0": 70, "2.0.0": 30}
        assert (len(made.old.received), len(made.new.received)) == (70, 30)


@pytest.mark.req("RM-4.3b")
async def test_a_canary_grows_by_one_edit() -> None:
    async with traffic(route({"old": 95, "new": 5})) as made:
        await made.serve()
        assert await made.answered(20) == {"1.0.0": 19, "2.0.0": 1}
        made.route(route({"old": 50, "new": 50}))
        assert await made.answered(20) == {"1.0.0": 10, "2.0.0": 10}
        made.route(route({"new": 1}))
        assert await made.answered(10) == {"2.0.0": 10}


async def test_without_the_route_the_highest_version_answers_again() -> None:
    async with traffic(route({"old": 1})) as made:
        await made.serve()
        assert await made.ask() == "1.0.0"
        made.router.control.routes.set({})
        assert await made.ask() == "2.0.0"


@pytest.mark.req("RM-4.3a")
async def test_a_header_holds_a_caller_to_one_backend() -> None:
    async with traffic(route({"old": 1, "new": 1}, stickyHeader="X-User")) as made:
        await made.serve()
        by_user = [await made.answered(5, **{"X-User": f"user-{number}"}) for number in range(20)]
        assert {tuple(found.values()) for found in by_user} == {(5,)}
        assert len({next(iter(found)) for found in by_user}) == 2


async def test_a_backend_whose_load_failed_falls_out_and_stays_wanted() -> None:
    async with traffic(route({"old": 1, "new": 1})) as made:
        await made.serve()
        broken = deployed("new", "2.0.0", status=routing.failed())
        made.router.deploy(OLD, broken)
        assert await made.answered(10) == {"1.0.0": 10}
        assert made.router.wanted == {"old", "new"}


async def test_a_route_that_nobody_can_answer_is_named() -> None:
    async with running_router(OLD) as router:
        of = route({"gone": 1}, name="canary")
        router.control.routes.set({key_of(of): of})
        answer = await router.http.post("/api/v1/infer/m", json=BODY)
        assert answer.status_code == 503
        problem = answer.json()
        assert (problem["code"], problem["modelId"]) == ("MODEL_UNHEALTHY", "m")
        assert "ModelRoute default/canary" in problem["detail"]
        assert "retry-after" in answer.headers


# ------------------------------------------------------------------------------------------------ the mirror


def mirrored(percent: int = 100) -> ModelRoute:
    return route({"old": 1}, mirror={"name": "new", "percent": percent})


@pytest.mark.req("RM-4.3c")
async def test_a_mirror_gets_copies_and_its_answers_go_nowhere() -> None:
    async with traffic(mirrored(50)) as made:
        await made.serve()
        assert await made.answered(10) == {"1.0.0": 10}
        await eventually(lambda: len(made.new.received) == 5)
        assert made.new.received[0].request == made.old.received[0].request
        assert {entry.priority for entry in made.new.received} == {types_pb2.PRIORITY_LOW}


@pytest.mark.req("RM-4.3c")
@pytest.mark.parametrize("respond", [echo, fail])
async def test_a_mirror_that_hangs_or_fails_reaches_no_caller(respond: Any) -> None:
    async with traffic(mirrored(), respond=respond) as made:
        await made.ask("m@1.0.0")
        made.new.hold()
        assert await made.answered(20) == {"1.0.0": 20}  # none waited for the mirror, which has answered none
        assert made.new.finished == []
        made.new.release()
        await eventually(lambda: made.new.finished)


@pytest.mark.req("RM-4.3c")
async def test_copies_beyond_the_bound_are_dropped() -> None:
    async with (
        fake_worker("default/o") as old,
        fake_worker("default/n") as new,
        running_router(OLD, NEW, max_copies=3) as router,
    ):
        made = Traffic(router, old, new)
        await made.serve()
        made.route(mirrored())
        new.hold()
        await made.answered(10)
        new.release()
        await eventually(lambda: len(new.finished) == 4)  # 3, and the one of `serve`
        await made.ask()
        await eventually(lambda: len(new.finished) == 5)  # there is room again


@pytest.mark.req("RM-4.3c")
async def test_copies_take_no_memory_from_callers() -> None:
    large = {"input": {"text": "x" * 200_000}, "priority": "LOW"}
    async with (
        fake_worker("default/o") as old,
        fake_worker("default/n") as new,
        running_router(OLD, NEW, max_held_bytes=1 << 20) as router,
    ):
        made = Traffic(router, old, new)
        await made.serve()
        made.route(mirrored())
        new.hold()
        answers = [await router.http.post("/api/v1/infer/m", json=large) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        new.release()
        await eventually(lambda: len(new.finished) == 2)  # one copy, and the one of `serve`: the others were dropped


@pytest.mark.req("RM-4.3c")
async def test_a_mirror_at_zero_is_woken() -> None:
    async with fake_worker("default/o") as old, running_router(OLD, NEW) as router:
        router.control.workers.set({old.worker_id: old.listed(Key("default", "old"))})
        of = mirrored()
        router.control.routes.set({key_of(of): of})
        answer = await router.http.post("/api/v1/infer/m", json=BODY)
        assert answer.status_code == 200
        await eventually(lambda: router.wanted == {"old", "new"})


@pytest.mark.req("RM-4.3c")
async def test_copies_do_not_hold_up_the_end_of_the_router() -> None:
    async with asyncio.timeout(30), fake_worker("default/o") as old, fake_worker("default/n") as new:
        async with running_router(OLD, NEW, drain_timeout_s=60) as router:
            made = Traffic(router, old, new)
            await made.serve()
            made.route(mirrored())
            new.hold()
            await made.answered(3)
        assert new.received  # and the drain did not wait for them
