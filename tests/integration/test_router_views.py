"""What a router shows of its models and of itself: lists, status, probes, its interface."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelmora.spec import ModelState
from modelmora.v1 import management_pb2, registry_pb2
from tests.support.fake_worker import FakeWorker
from tests.support.routing import (
    Router,
    condition,
    deployment,
    failed,
    request,
    running_router,
)

GOOD = {"input": {"text": "a"}}


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    """One model, asleep, whose requests go out one by one."""
    async with running_router(deployment(batching={"maxSize": 1})) as router:
        yield router


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
