"""A real router for tests: its server on free ports of this machine, fed by a local control that the test writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.errors import ModelMoraError
from modelmora.spec import Condition, FailureReport, ModelDeployment, ModelRef, ModelState, Priority
from modelmora.v1 import inference_pb2_grpc, management_pb2_grpc, registry_pb2_grpc, types_pb2
from modelmora.wire.status import from_rpc_error
from modelmora.wire.values import to_values
from modelmora_router.calls import InferenceCall, Payload
from modelmora_router.server import Bound, run
from modelmora_router.settings import RouterSettings
from modelmora_router.spans import SpanSink
from tests.support.fake_worker import FakeWorker

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


def deployment(
    name: str = "one",
    *,
    namespace: str = "default",
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **spec: Any,
) -> ModelDeployment:
    """A deployment as the operator would publish it; `spec` and `model` as in YAML, status as in Python."""
    shown = {"task": "txt2embed", "source": {"uri": "package://a/b"}} | dict(model or {})
    manifest = {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"model": shown, **spec},
    }
    parsed = ModelDeployment.parse(manifest)
    return parsed.model_copy(
        update={
            "metadata": parsed.metadata.model_copy(update=dict(metadata or {})),
            "status": parsed.status.model_copy(update={"observed_generation": 1} | dict(status or {})),
        }
    )


def condition(kind: str = "Ready", status: str = "True", reason: str = "Serving", message: str = "") -> Condition:
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "message": message, "last_transition_time": MOMENT}
    )


def failed(reason: str = "LoadFailed", message: str = "model.safetensors is cut short") -> dict[str, Any]:
    """The status of a model that could not be loaded."""
    return {
        "state": ModelState.FAILED_TO_LOAD,
        "last_failure": FailureReport(
            where="load", reason=reason, message=message, remedy="fetch it again", time=MOMENT
        ),
        "conditions": (condition("Ready", "False", reason, message),),
    }


def key_of(model: ModelDeployment) -> Key:
    return Key(model.metadata.namespace, model.metadata.name)


def call(
    text: str = "hello",
    *,
    model_id: str = "one",
    priority: Priority | None = None,
    timeout_s: float | None = None,
    deadline: float | None = None,
    received_at: float | None = None,
) -> InferenceCall:
    """A call that has just come in, by time.monotonic() if nothing else is said."""
    return InferenceCall(
        namespace="default",
        ref=ModelRef(model_id),
        payload=Payload.of(request(text, model_id=model_id)),
        priority=priority,
        timeout_s=timeout_s,
        deadline=deadline,
        request_id=f"request-{text}",
        received_at=time.monotonic() if received_at is None else received_at,
    )


def request(text: str | list[str] = "hello", *, model_id: str = "one", **fields: Any) -> types_pb2.InferenceRequest:
    """The message for a call."""
    return types_pb2.InferenceRequest(model_id=model_id, input=to_values({"text": text}), **fields)


async def eventually(condition: Callable[[], Any], *, within_s: float = 30.0) -> Any:
    """The first true value of a condition."""
    async with asyncio.timeout(within_s):
        while not (value := condition()):  # noqa: ASYNC110 - there is no event for every condition
            await asyncio.sleep(0.002)
        return value


async def post_raw(router: "Router", body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a request for model `one` was sent, and nothing was read."""
    reader, writer = await asyncio.open_connection(router.bound.host, router.bound.rest_port)
    writer.write(b"POST /infer/one HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return reader, writer


class Router:
    """A running router, and the operator's side of its control."""

    def __init__(self, bound: Bound, control: LocalControl, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self.bound = bound
        self.control = control
        self.http = http
        self.channel = channel
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(channel)
        self.management = management_pb2_grpc.ManagementServiceStub(channel)

    def deploy(self, *models: ModelDeployment) -> None:
        """These are now all deployments."""
        self.control.deployments.set({key_of(model): model for model in models})

    def work(self, *workers: FakeWorker, name: str = "one", terminating: bool = False) -> None:
        """These are now all workers, all of one model."""
        key = Key("default", name)
        self.control.workers.set({worker.worker_id: worker.listed(key, terminating=terminating) for worker in workers})

    @property
    def wanted(self) -> set[str]:
        """The names of the deployments for which demand is published."""
        return {key.name for key in self.control.demands.value or {}}

    async def status(self, model_id: str = "one") -> dict[str, Any]:
        answer = await self.http.get(f"/api/v1/models/{model_id}")
        shown: dict[str, Any] = answer.json()
        return shown

    async def waiting(self, *, queued: int = 0, running: int = 0) -> None:
        """Returns once so many requests of model `one` wait and run."""
        async with asyncio.timeout(10):
            while True:
                shown = await self.status()
                if (shown["queued"], shown["running"]) == (queued, running):
                    return
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running_router(
    *models: ModelDeployment,
    stop: asyncio.Event | None = None,
    spans: SpanSink | None = None,
    control: LocalControl | None = None,
    **settings: Any,
) -> AsyncIterator[Router]:
    """A router that knows these deployments and no worker; ended in order when the block ends."""
    control, bound = control or LocalControl(), asyncio.get_running_loop().create_future()
    control.deployments.set({key_of(model): model for model in models})
    control.workers.set({})
    stop = stop or asyncio.Event()
    chosen = RouterSettings(**({"rest_port": 0, "grpc_port": 0, "drain_timeout_s": 5, "close_timeout_s": 1} | settings))
    async with asyncio.TaskGroup() as group:
        group.create_task(
            run(chosen, control, ready=bound.set_result, stop=stop, spans=spans), name="router under test"
        )
        async with asyncio.timeout(10):
            where = await bound
        base = f"http://{where.host}:{where.rest_port}"
        target = f"{where.host}:{where.grpc_port}"
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with (
            httpx.AsyncClient(base_url=base, timeout=20) as http,
            grpc.aio.insecure_channel(target, options=options) as channel,
        ):
            try:
                yield Router(where, control, http, channel)
            finally:
                stop.set()


async def refused(call: Any) -> ModelMoraError:
    """The error of a call over gRPC."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
