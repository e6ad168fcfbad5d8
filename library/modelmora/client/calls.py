"""Every call of the SDK as a value: which method, with which request, and how to read its answer.

Both clients run these; what differs between them is only whether they await.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.client import messages
from modelmora.client.messages import InferenceResult, Input, Model, SystemStatus
from modelmora.client.sharing import Loan
from modelmora.spec import Priority
from modelmora.v1 import inference_pb2_grpc, management_pb2, management_pb2_grpc, registry_pb2, registry_pb2_grpc

R = TypeVar("R")


class Stubs:
    """The services of a server on one channel of either kind."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.inference: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        self.management: Any = management_pb2_grpc.ManagementServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    method: Callable[[Stubs], Callable[..., Any]]
    request: Any  # the protobuf message that the method takes
    read: Callable[[Any], R]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list of models; `next_page` is empty on the last."""

    models: list[Model]
    next_page: str


def infer(
    model_id: str,
    value: Input,
    *,
    parameters: Mapping[str, Any] | None,
    priority: Priority | str | None,
    timeout_seconds: float | None,
    request_id: str,
    loan: Loan | None = None,
) -> Call[InferenceResult]:
    request = messages.inference_request(
        model_id,
        value,
        parameters=parameters,
        priority=priority,
        timeout_seconds=timeout_seconds,
        request_id=request_id,
        loan=loan,
    )
    return Call(lambda stubs: stubs.inference.Infer, request, partial(messages.inference_result, loan=loan))


def list_models(task: str, page_token: str) -> Call[Page]:
    request = messages.made(registry_pb2.ListModelsRequest, task=task, page_token=page_token)
    return Call(lambda stubs: stubs.registry.ListModels, request, _page)


def _page(response: registry_pb2.ListModelsResponse) -> Page:
    return Page([messages.model(each) for each in response.models], response.next_page_token)


def get_model(model_id: str) -> Call[Model]:
    request = messages.made(registry_pb2.GetModelRequest, model_id=model_id)
    return Call(lambda stubs: stubs.registry.GetModel, request, messages.model)


def load(model_id: str) -> Call[Model]:
    request = messages.made(management_pb2.LoadModelRequest, model_id=model_id)
    return Call(lambda stubs: stubs.management.LoadModel, request, messages.model)


def unload(model_id: str) -> Call[Model]:
    request = messages.made(management_pb2.UnloadModelRequest, model_id=model_id)
    return Call(lambda stubs: stubs.management.UnloadModel, request, messages.model)


def status() -> Call[SystemStatus]:
    return Call(lambda stubs: stubs.management.GetStatus, management_pb2.GetStatusRequest(), messages.system_status)


def healthy() -> Call[bool]:
    return Call(lambda stubs: stubs.health.Check, health_pb2.HealthCheckRequest(), _serves)


def _serves(answer: health_pb2.HealthCheckResponse) -> bool:
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
