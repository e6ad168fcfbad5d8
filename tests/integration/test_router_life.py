"""Models that wake, sleep, fail and come back; workers that end well and badly; a router that starts and ends."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelmora import errors
from modelmora.control import Demands, Key
from modelmora.control.local import LocalControl
from modelmora.errors import AddressInUse, InvalidSettings, ModelMoraError, ServerUnavailable
from modelmora.spec import ModelDeployment, ModelState, Priority
from modelmora.v1 import inference_pb2_grpc, management_pb2, management_pb2_grpc, registry_pb2, registry_pb2_grpc
from modelmora.wire.status import from_rpc_error
from modelmora_router.server import Bound, run
from modelmora_router.settings import RouterSettings
from tests.support.fake_worker import FakeWorker, fake_worker
from tests.support.routing import Router, condition, deployment, eventually, failed, key_of, request, running_router

GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    """One model, asleep, whose requests go out one by one."""
    async with running_router(deployment(batching={"maxSize": 1})) as router:
        yield router


async def refused(call: Any) -> ModelMoraError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# ------------------------------------------------------------------------------------------------ waking


@pytest.mark.req("REQ-LIFE-001a", "AC-MVP-4", "RM-1.MVP-2")
async def test_the_first_request_wakes_the_model_and_is_held_until_it_serves(
    router: Router, worker: FakeWorker
) -> None:
    assert router.wanted == set()
    worker.serve(serving=False)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(3)]
    await eventually(lambda: router.wanted == {"one"})
    router.work(worker)
    await router.waiting(queued=3)
    worker.serve()
    answers = await asyncio.gather(*calls)
    assert [answer.output["text"].text.items[0] for answer in answers] == ["0", "1", "2"]


async def test_a_worker_is_found_although_it_listens_later_than_it_is_listed(router: Router) -> None:
    async with fake_worker("w1", listening=False) as worker:
        router.work(worker)
        call = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(queued=1)
        await worker.listen()
        assert (await call).output["text"].text.items == ["hello"]


@pytest.mark.req("REQ-LIFE-002", "API-REST-12")
@pytest.mark.parametrize("action", ["load", "warmup"])
async def test_a_load_wakes_the_model_and_answers_when_it_serves(
    router: Router, worker: FakeWorker, action: str
) -> None:
    loading = asyncio.ensure_future(router.http.post(f"/api/v1/models/one/{action}"))
    await eventually(lambda: router.wanted == {"one"})
    assert not loading.done()
    router.work(worker)
    answer = await loading
    assert answer.status_code == 200, answer.text
    assert answer.json()["modelId"] == "one"
    assert worker.received == []


@pytest.mark.req("REQ-GRPC-001c")
async def test_load_and_unload_over_grpc(router: Router, worker: FakeWorker) -> None:
    loading = asyncio.ensure_future(router.management.LoadModel(management_pb2.LoadModelRequest(model_id="one")))
    await eventually(lambda: router.wanted == {"one"})
    router.work(worker)
    assert (await loading).model_id == "one"
    unloading = asyncio.ensure_future(router.management.UnloadModel(management_pb2.UnloadModelRequest(model_id="one")))
    await eventually(lambda: router.wanted == set())
    router.work()
    assert (await unloading).model_id == "one"


@pytest.mark.req("API-REST-13")
async def test_an_unload_answers_when_the_workers_are_gone(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    unloading = asyncio.ensure_future(router.http.post("/api/v1/models/one/unload"))
    await eventually(lambda: router.wanted == set())
    assert not unloading.done()
    router.work()
    assert (await unloading).status_code == 200


async def test_a_model_in_use_is_not_unloaded(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    running = asyncio.ensure_future(router.inference.Infer(request()))
    await router.waiting(running=1)
    answer = await router.http.post("/api/v1/models/one/unload")
    assert (answer.status_code, answer.json()["code"]) == (409, "MODEL_BUSY")
    worker.release()
    await running


async def test_a_request_during_an_unload_wins(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    worker.hold()
    unloading = asyncio.ensure_future(router.http.post("/api/v1/models/one/unload"))
    await eventually(lambda: router.wanted == set())
    running = asyncio.ensure_future(router.inference.Infer(request("late")))
    await eventually(lambda: router.wanted == {"one"})
    async with fake_worker("w2") as other:
        router.work(worker, other)
        assert (await unloading).json()["code"] == "MODEL_BUSY"
        worker.release()
        await running


async def test_a_model_with_a_floor_is_not_unloaded() -> None:
    async with running_router(deployment(scaling={"minReplicas": 1})) as router:
        answer = await router.http.post("/api/v1/models/one/unload")
        assert (answer.status_code, answer.json()["field"]) == (409, "spec.scaling.minReplicas")


async def test_a_suspended_model_with_a_floor_has_none() -> None:
    async with running_router(deployment(scaling={"minReplicas": 1}, suspend=True)) as router:
        assert (await router.http.post("/api/v1/models/one/unload")).status_code == 200


async def test_an_idle_model_is_no_longer_wanted(worker: FakeWorker) -> None:
    model = deployment(scaling={"scaleToZeroAfterSeconds": 0})
    async with running_router(model, demand_interval_s=0.02) as router:
        router.work(worker)
        worker.hold()
        running = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(running=1)
        assert router.wanted == {"one"}
        worker.release()
        await running
        await eventually(lambda: router.wanted == set())


@pytest.mark.req("REQ-QUEUE-002")
async def test_the_operator_hears_how_urgent_a_model_is_and_since_when_somebody_waits_for_it(
    worker: FakeWorker,
) -> None:
    waiting = {"conditions": (condition("Scheduled", "False", "WaitingForRoom", "all places are taken"),)}
    models = deployment(), deployment("two", model={"id": "two"}, status=waiting)
    async with running_router(*models, demand_interval_s=0.02) as router:

        def said() -> tuple[int, bool]:
            demand = (router.control.demands.value or {}).get(Key("default", "one"))
            return (demand.urgency, demand.waiting_since > 0) if demand else (0, False)

        worker.hold()
        asked = [asyncio.ensure_future(router.inference.Infer(request(priority=priority))) for priority in (4, 2)]
        await eventually(lambda: said() == (Priority.HIGH, True))
        router.work(worker)
        await eventually(lambda: said() == (Priority.HIGH, False))
        worker.release()
        await asyncio.gather(*asked)
        await eventually(lambda: said() == (0, False))


async def test_models_that_run_when_the_router_starts_stay_wanted(worker: FakeWorker) -> None:
    control, stop = LocalControl(), asyncio.Event()
    model = deployment()
    control.deployments.set({key_of(model): model})
    control.workers.set({"w1": worker.listed(key_of(model))})
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        settings = RouterSettings(rest_port=0, grpc_port=0)
        group.create_task(run(settings, control, ready=lambda _: ready.set(), stop=stop))
        await eventually(lambda: control.demands.value)
        assert list(control.demands.value or {}) == [Key("default", "one")]
        stop.set()


# ------------------------------------------------------------------------------------------------ failing


@pytest.mark.req("REQ-LIFE-010b", "REQ-LIFE-011")
async def test_a_failed_load_fails_what_is_held_and_later_requests_still_ask_for_the_retry() -> None:
    idle = {"scaleToZeroAfterSeconds": 0}
    async with running_router(deployment(scaling=idle), demand_interval_s=0.05) as router:
        await _fail_and_ask_again(router, deployment(scaling=idle, status=failed("LoadFailed")))


async def _fail_and_ask_again(router: Router, broken: ModelDeployment) -> None:
    held = router.inference.Infer(request())
    await eventually(lambda: router.wanted == {"one"})
    router.deploy(broken)
    error = await refused(held)
    assert type(error) is errors.ModelUnhealthy
    assert error.context.reason == "LoadFailed"
    await eventually(lambda: router.wanted == set())
    assert type(await refused(router.inference.Infer(request()))) is errors.ModelUnhealthy
    await eventually(lambda: router.wanted == {"one"})


@pytest.mark.req("EDGE-3", "US2-AS3")
async def test_a_worker_that_dies_fails_what_it_had_and_the_next_worker_gets_the_rest(
    router: Router, worker: FakeWorker
) -> None:
    worker.hold()
    router.work(worker)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(4)]
    await router.waiting(queued=2, running=2)
    await worker.die()
    await eventually(lambda: sum(call.done() for call in calls) == 2)
    for call in [call for call in calls if call.done()]:
        error = await refused(call)
        assert type(error) is errors.WorkerUnavailable
        assert (error.context.model_id, error.context.endpoint) == ("one", worker.address)
    rest = [call for call in calls if not call.done()]
    async with fake_worker("w2") as other:
        router.work(other)
        await asyncio.gather(*rest)
        assert len(other.received) == 2


async def test_a_worker_that_moved_is_found_where_it_is_now(router: Router, worker: FakeWorker) -> None:
    async with fake_worker("w1") as before:
        router.work(before)
        await router.inference.Infer(request("a"))
        assert before.texts == ["a"]
        router.work(worker)  # of the same name, at another address
        await eventually(lambda: worker.streams == 1)
        await router.inference.Infer(request("b"))
        assert (before.texts, worker.texts) == (["a"], ["b"])


async def test_another_worker_at_a_workers_address_is_sent_nothing(router: Router, worker: FakeWorker) -> None:
    worker.identity = "default/of-another-model"
    router.work(worker)
    call = asyncio.ensure_future(router.inference.Infer(request()))
    await eventually(lambda: worker.streams)
    await router.waiting(queued=1)
    assert worker.texts == []
    worker.identity = worker.worker_id  # the address has come back to it, and it says that it serves

    def asked_again() -> bool:
        worker.serve(serving=False)
        worker.serve()
        return worker.streams > 1

    await eventually(asked_again)
    await call
    assert worker.texts == ["hello"]


async def test_a_worker_that_drains_loses_nothing(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    calls = [asyncio.ensure_future(router.inference.Infer(request(str(number)))) for number in range(4)]
    await router.waiting(queued=2, running=2)
    worker.drain()
    async with fake_worker("w2") as other:
        router.work(worker, other)
        answers = await asyncio.gather(*calls)
    assert [answer.output["text"].text.items[0] for answer in answers] == ["0", "1", "2", "3"]


async def test_a_terminating_worker_gets_nothing_new(router: Router, worker: FakeWorker) -> None:
    router.work(worker, terminating=True)
    async with fake_worker("w2") as other:
        call = asyncio.ensure_future(router.inference.Infer(request()))
        await router.waiting(queued=1)
        router.control.workers.set(
            {"w1": worker.listed(Key("default", "one"), terminating=True), "w2": other.listed(Key("default", "one"))}
        )
        await call
        assert (len(worker.received), len(other.received)) == (0, 1)


async def test_a_worker_that_is_no_longer_listed_may_still_finish(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    call = asyncio.ensure_future(router.inference.Infer(request()))
    await router.waiting(running=1)
    router.work()
    late = asyncio.ensure_future(router.inference.Infer(request("late")))
    await router.waiting(queued=1, running=1)
    worker.release()
    assert (await call).output["text"].text.items == ["hello"]
    assert worker.texts == ["hello"]
    late.cancel()


async def test_a_model_that_is_deleted_gives_up_what_is_held(router: Router) -> None:
    held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
    await router.waiting(queued=1)
    router.deploy()
    answer = await held
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")
    await eventually(lambda: router.wanted == set())


async def test_what_waits_for_a_deleted_model_does_not_go_to_the_next_one_of_its_name(router: Router) -> None:
    held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
    await router.waiting(queued=1)
    router.deploy(deployment(metadata={"uid": "another"}))
    answer = await held
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")


async def test_a_worker_of_a_deleted_deployment_gets_nothing_of_the_next_one_of_its_name(
    router: Router, worker: FakeWorker
) -> None:
    former, unknown = (replace(worker.listed(Key("default", "one")), deployment_uid=uid) for uid in ("first", ""))
    router.deploy(deployment(metadata={"uid": "first"}))
    router.control.workers.set({worker.worker_id: former})
    await router.inference.Infer(request("before"))
    async with fake_worker("w2") as second:
        router.deploy(deployment(metadata={"uid": "second"}))
        held = asyncio.ensure_future(router.inference.Infer(request("after")))
        await router.waiting(queued=1)
        latter = replace(second.listed(Key("default", "one")), deployment_uid="second")
        router.control.workers.set({worker.worker_id: former, second.worker_id: latter})
        await held
        assert (worker.texts, second.texts) == (["before"], ["after"])
        router.control.workers.set({worker.worker_id: unknown})
        await router.inference.Infer(request("of a control that does not tell"))
        assert len(worker.texts) == 2


async def test_a_worker_that_is_heard_of_before_its_deployment_is_used_once_that_is_there(
    router: Router, worker: FakeWorker
) -> None:
    router.deploy(deployment(metadata={"uid": "first"}))
    latter = replace(worker.listed(Key("default", "one")), deployment_uid="second")
    router.control.workers.set({worker.worker_id: latter})
    held = asyncio.ensure_future(router.inference.Infer(request("first")))
    await router.waiting(queued=1)
    router.deploy(deployment(metadata={"uid": "second"}))
    assert type(await refused(held)) is errors.ModelNotFound
    await router.inference.Infer(request("second"))
    assert worker.texts == ["second"]


async def test_a_load_of_a_model_that_is_deleted_ends(router: Router) -> None:
    loading = asyncio.ensure_future(router.http.post("/api/v1/models/one/load"))
    await eventually(lambda: router.wanted == {"one"})
    router.deploy()
    answer = await loading
    assert (answer.status_code, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")


async def test_a_model_whose_queue_is_full_answers_429() -> None:
    async with running_router(deployment(queue={"maxLength": 1})) as router:
        held = asyncio.ensure_future(router.http.post("/api/v1/infer/one", json=GOOD))
        await router.waiting(queued=1)
        answer = await router.http.post("/api/v1/infer/one", json=GOOD)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        held.cancel()
        await asyncio.wait([held])
        await router.waiting()


async def test_a_model_that_never_wakes_answers_503() -> None:
    async with running_router(deployment(queue={"coldStartTimeoutSeconds": 1})) as router:
        answer = await router.http.post("/api/v1/infer/one", json=GOOD)
        assert (answer.status_code, answer.json()["code"]) == (503, "COLD_START_TIMEOUT")
        assert answer.headers["retry-after"] == "5"
        assert router.wanted == {"one"}


async def test_a_changed_deployment_takes_effect_at_once(router: Router, worker: FakeWorker) -> None:
    router.work(worker)
    await router.inference.Infer(request())
    router.deploy(deployment(suspend=True))
    assert type(await refused(router.inference.Infer(request()))) is errors.ModelSuspended
    router.deploy(deployment())
    assert (await router.inference.Infer(request())).model_id
    assert worker.streams == 1


# ------------------------------------------------------------------------------------------------ looking


@pytest.mark.req("API-REST-02", "RM-1.2e", "RM-1.4b", "REQ-REG-001a", "REQ-REG-001b", "REQ-REG-001c")
@pytest.mark.parametrize("path", ["/api/v1/models", "/models"])
async def test_models_are_listed_by_task_and_page(path: str) -> None:
    models = [
        deployment(f"m{number}", model={"id": f"org/m{number}", "task": task, "version": "1.2.3"})
        for number, task in enumerate(["txt2embed", "img2txt", "txt2embed"])
    ]
    async with running_router(*models) as router:
        first = (await router.http.get(path, params={"task": "txt2embed", "pageSize": 1})).json()
        assert [(model["modelId"], model["version"], model["task"]) for model in first["models"]] == [
            ("org/m0", "1.2.3", "txt2embed")
        ]
        query = {"task": "txt2embed", "pageSize": 1, "pageToken": first["nextPageToken"]}
        second = (await router.http.get(path, params=query)).json()
        assert [model["modelId"] for model in second["models"]] == ["org/m2"]
        assert second["nextPageToken"] == ""
        asked = registry_pb2.ListModelsRequest(task="txt2embed", page_size=1, page_token=first["nextPageToken"])
        assert [model.model_id for model in (await router.registry.ListModels(asked)).models] == ["org/m2"]


@pytest.mark.req("API-REST-03", "REQ-GRPC-001b")
async def test_one_model_is_shown_with_its_spec_and_status() -> None:
    status = {"state": ModelState.LOADED, "replicas": 1, "conditions": (condition(),)}
    async with running_router(deployment(status=status)) as router:
        shown = (await router.http.get("/api/v1/models/one")).json()
        assert (shown["state"], shown["replicas"], shown["lastUsedAt"]) == ("Loaded", 1, None)
        assert shown["spec"]["model"]["source"]["uri"] == shown["source"] == "package://a/b"
        assert shown["conditions"][0]["reason"] == "Serving"
        message = await router.registry.GetModel(registry_pb2.GetModelRequest(model_id="one@1.0.0"))
        assert message.state == registry_pb2.MODEL_STATE_LOADED
        assert MessageToDict(message.spec)["model"]["source"]["uri"] == "package://a/b"
        assert message.status["state"] == "Loaded"
        assert message.conditions[0].reason == "Serving"


@pytest.mark.req("API-REST-14", "REQ-GRPC-001c")
async def test_the_status_counts_what_waits_and_runs(router: Router, worker: FakeWorker) -> None:
    worker.hold()
    router.work(worker)
    calls = [asyncio.ensure_future(router.inference.Infer(request())) for _ in range(3)]
    await router.waiting(queued=1, running=2)
    shown = (await router.http.get("/api/v1/status")).json()
    assert (shown["queued"], shown["running"], shown["ready"]) == (1, 2, True)
    message = await router.management.GetStatus(management_pb2.GetStatusRequest())
    assert (message.queued, message.running, message.ready, message.version) == (1, 2, True, shown["version"])
    assert message.models[0].HasField("last_used_at")
    worker.release()
    await asyncio.gather(*calls)


@pytest.mark.req("API-REST-16", "API-REST-17", "REQ-OBS-005a", "REQ-OBS-005b", "RM-1.4a", "RM-2.6h", "RM-2.6i")
async def test_probes_are_answered(router: Router) -> None:
    assert (await router.http.get("/health/live")).status_code == 200
    assert (await router.http.get("/health/ready")).json()["status"] == "ready"
    assert set((await router.http.get("/health")).json()["components"].values()) == {"ready"}
    stub = health_pb2_grpc.HealthStub(router.channel)
    for service in ("", "modelmora.v1.InferenceService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.req("API-REST-18", "REQ-LIFE-010a", "REQ-OBS-005c")
async def test_the_health_of_models_names_the_reason() -> None:
    async with running_router(deployment(), deployment("bad", status=failed("ChecksumMismatch"))) as router:
        shown = {model["modelId"]: model for model in (await router.http.get("/health/models")).json()["models"]}
        assert (shown["one"]["healthy"], shown["bad"]["healthy"]) == (True, False)
        assert shown["bad"]["reason"] == "ChecksumMismatch"


@pytest.mark.req("API-REST-19")
async def test_the_interface_describes_itself(router: Router) -> None:
    described = (await router.http.get("/openapi.json")).json()
    assert {"/api/v1/infer/{model_id}", "/api/v1/models/{model_id}/load", "/health/ready"} <= set(described["paths"])
    operation = described["paths"]["/api/v1/infer/{model_id}"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"input", "parameters", "priority", "timeoutSeconds"}
    assert (await router.http.get("/docs")).status_code == 200


@pytest.mark.req("REQ-GRPC-001a", "REQ-GRPC-001b", "REQ-GRPC-001c")
async def test_reflection_lists_the_services(router: Router) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(router.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for answer in call:
        names = {service.name for service in answer.list_services_response.service}
        break
    call.cancel()
    assert {f"modelmora.v1.{name}Service" for name in ("Inference", "Registry", "Management")} <= names


# ------------------------------------------------------------------------------------------------ starting, ending


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
