"""A router that starts and ends: when it is ready, its ports, and what becomes of requests at its end."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora import errors
from modelmora.control import Demands
from modelmora.control.local import LocalControl
from modelmora.errors import AddressInUse, InvalidSettings, ServerUnavailable
from modelmora.v1 import inference_pb2_grpc, management_pb2, management_pb2_grpc, registry_pb2, registry_pb2_grpc
from modelmora_router.server import Bound, run
from modelmora_router.settings import RouterSettings
from tests.support.fake_worker import FakeWorker
from tests.support.routing import (
    Router,
    deployment,
    eventually,
    key_of,
    refused,
    request,
    running_router,
)

GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    """One model, asleep, whose requests go out one by one."""
    async with running_router(deployment(batching={"maxSize": 1})) as router:
        yield router


async def test_the_router_is_ready_only_once_it_knows_its_models() -> None:
    control, stop = LocalControl(), asyncio.Event()
    bound: list[Bound] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(RouterSettings(rest_port=0, grpc_port=0), control, ready=bound.append, stop=stop))
        control.deployments.set({})
        await asyncio.wait([task], timeout=0.2)
        assert bound == []
        control.workers.set({})
        await eventually(lambda: bound)
        stop.set()


class Blind(LocalControl):
    """A control that has told what it could, and can see no more."""

    why = "404 page not found"

    def blind(self, namespace: str) -> str:
        return self.why if namespace == "default" else ""


async def test_a_router_that_cannot_see_says_so_of_what_it_does_not_know_and_serves_the_rest(
    worker: FakeWorker,
) -> None:
    control = Blind()
    async with running_router(deployment(), control=control) as router:
        router.work(worker)
        assert (await router.http.post("/infer/one", json=GOOD)).status_code == 200
        for answer in (
            await router.http.post("/infer/new", json=GOOD),
            await router.http.get("/api/v1/models/new"),
            await router.http.post("/api/v1/models/new/load"),
            await router.http.post("/api/v1/models/new/unload"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "SERVER_UNAVAILABLE")
            assert answer.headers["retry-after"] == "5"
            assert "cannot see the deployments now" in answer.json()["detail"]
            assert control.why in answer.json()["detail"]
        error = await refused(router.inference.Infer(request(model_id="one@9.0.0")))
        assert type(error) is ServerUnavailable
        elsewhere = await router.http.post("/infer/new", json=GOOD, headers={"modelmora-namespace": "elsewhere"})
        assert elsewhere.status_code == 404
        control.why = ""
        assert (await router.http.post("/infer/new", json=GOOD)).status_code == 404


class Deaf(LocalControl):
    """A control that takes no demand until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def publish_demand(self, demands: Demands) -> None:
        if not self.open.is_set():
            raise ServerUnavailable("not now")
        await super().publish_demand(demands)


async def test_the_router_is_ready_only_once_it_has_said_what_is_wanted(worker: FakeWorker) -> None:
    control, bound, stop = Deaf(), asyncio.get_running_loop().create_future(), asyncio.Event()
    model = deployment()
    control.deployments.set({key_of(model): model})
    control.workers.set({worker.worker_id: worker.listed(key_of(model))})
    settings = RouterSettings(rest_port=0, grpc_port=0, demand_interval_s=0.01)
    async with asyncio.TaskGroup() as group:
        group.create_task(run(settings, control, ready=bound.set_result, stop=stop))
        await eventually(lambda: worker.streams == 1)  # all is known by now
        assert not bound.done()
        control.open.set()
        await bound
        assert control.demands.value is not None
        assert control.demands.value.keys() == {key_of(model)}
        stop.set()


async def test_a_model_that_the_router_has_not_heard_of_yet_is_not_said_to_be_missing() -> None:
    control, stop = LocalControl(), asyncio.Event()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with asyncio.TaskGroup() as group, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        group.create_task(run(RouterSettings(rest_port=0, grpc_port=port), control, stop=stop))
        await channel.channel_ready()
        models, management = (
            registry_pb2_grpc.RegistryServiceStub(channel),
            management_pb2_grpc.ManagementServiceStub(channel),
        )
        for call in (
            inference_pb2_grpc.InferenceServiceStub(channel).Infer(request()),
            management.LoadModel(management_pb2.LoadModelRequest(model_id="one")),
            management.UnloadModel(management_pb2.UnloadModelRequest(model_id="one")),
            models.GetModel(registry_pb2.GetModelRequest(model_id="one")),
            models.ListModels(registry_pb2.ListModelsRequest()),
        ):
            assert type(await refused(call)) is errors.ServerUnavailable
        control.deployments.set({})
        control.workers.set({})
        stop.set()


async def test_a_router_that_has_heard_of_nothing_ends_when_it_is_asked_to() -> None:
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(30):
        await run(RouterSettings(rest_port=0, grpc_port=0), LocalControl(), stop=stop)


async def test_workers_that_are_heard_of_before_their_deployments_stay_wanted(worker: FakeWorker) -> None:
    control, stop = LocalControl(), asyncio.Event()
    model, published = deployment(), []
    async with asyncio.TaskGroup() as group:

        async def remember() -> None:
            async for demands in control.demands.watch():
                published.append(set(demands))  # noqa: PERF401 - one by one, as they come

        watcher = group.create_task(remember())
        group.create_task(run(RouterSettings(rest_port=0, grpc_port=0), control, stop=stop))
        control.workers.set({"w1": worker.listed(key_of(model))})
        for _ in range(20):  # turns of the event loop, in which an empty demand would have been published
            await asyncio.sleep(0)
        control.deployments.set({key_of(model): model})
        await eventually(lambda: published)
        assert published == [{key_of(model)}]
        stop.set()
        watcher.cancel()


async def test_a_client_that_watches_health_does_not_hold_the_port_open() -> None:
    stop = asyncio.Event()
    async with running_router(deployment(), stop=stop, close_timeout_s=600) as router:
        watch = health_pb2_grpc.HealthStub(router.channel).Watch(health_pb2.HealthCheckRequest())
        states = []
        async with asyncio.timeout(30):
            async for answer in watch:
                states.append(answer.status)
                stop.set()
        assert states[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("setting", ["rest_port", "grpc_port"])
async def test_a_port_in_use_is_named_with_its_setting(setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = RouterSettings(**{"rest_port": 0, "grpc_port": 0, setting: port})
        with pytest.raises(AddressInUse) as caught:
            await run(settings, LocalControl())
        assert caught.value.context.field == setting
        assert str(port) in caught.value.message


async def test_a_second_router_does_not_share_the_port_of_the_first(router: Router) -> None:
    for setting, port in (("rest_port", router.bound.rest_port), ("grpc_port", router.bound.grpc_port)):
        with pytest.raises(AddressInUse):
            await run(RouterSettings.model_validate({"rest_port": 0, "grpc_port": 0, setting: port}), LocalControl())


async def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(InvalidSettings) as caught:
        await run(RouterSettings(host="192.0.2.1", rest_port=0, grpc_port=0), LocalControl())
    assert caught.value.context.field == "host"


@pytest.mark.req("IMP-1")
async def test_a_router_that_ends_answers_what_it_accepted_and_refuses_what_is_new(worker: FakeWorker) -> None:
    stop = asyncio.Event()
    async with running_router(deployment(), stop=stop) as router:
        worker.hold()
        router.work(worker)
        health = health_pb2_grpc.HealthStub(router.channel)
        accepted = asyncio.ensure_future(router.inference.Infer(request()))
        accepted_too = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
        await router.waiting(running=2)
        stop.set()
        error = await refused(router.inference.Infer(request("late")))
        assert type(error) is errors.ServerUnavailable
        assert (await router.http.get("/health/ready")).status_code == 503
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        worker.release()
        assert (await accepted).output["text"].text.items == ["hello"]
        assert (await accepted_too).status_code == 200


@pytest.mark.req("IMP-1")
async def test_what_is_left_at_the_end_of_the_drain_time_is_told() -> None:
    stop = asyncio.Event()
    async with running_router(deployment(), stop=stop, drain_timeout_s=0.1) as router:
        held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
        await router.waiting(queued=1)
        stop.set()
        answer = await held
        assert (answer.status_code, answer.json()["code"]) == (503, "SERVER_UNAVAILABLE")


async def test_a_router_that_is_cancelled_drains_too(worker: FakeWorker) -> None:
    control, ready = LocalControl(), asyncio.Event()
    model = deployment()
    control.deployments.set({key_of(model): model})
    control.workers.set({})
    task = asyncio.ensure_future(run(RouterSettings(rest_port=0, grpc_port=0), control, ready=lambda _: ready.set()))
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_rest_and_grpc_cannot_have_the_same_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(AddressInUse) as caught:
        await run(RouterSettings(rest_port=port, grpc_port=port), LocalControl())
    assert caught.value.context.field == "grpc_port"


@pytest.mark.req("API-REST-19")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_of_the_api_need_nothing_from_elsewhere(router: Router, page: str) -> None:
    html = (await router.http.get(page)).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert loaded
    for address in loaded:
        assert address.startswith("/"), address
        assert (await router.http.get(address)).status_code == 200, address
