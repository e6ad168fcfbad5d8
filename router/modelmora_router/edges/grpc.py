"""gRPC: `modelmora.v1` as it is, no JSON and no pydantic on the way of an inference."""

import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from modelmora.errors import FeatureUnavailable, InternalError, InvalidRequest, MalformedRequest, ModelMoraError
from modelmora.spec import ModelRef, Priority
from modelmora.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    management_pb2,
    management_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    types_pb2,
)
from modelmora.wire.status import abbreviated, to_rpc
from modelmora_router import admission
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.views import model_message, system_message
from modelmora_router.settings import RouterSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAMESPACE_KEY: Final = "modelmora-namespace"
REQUEST_ID_KEY: Final = "x-request-id"
_PRIORITIES: Final = {0: None, **{int(priority): priority for priority in Priority}}

# A memo of a pure function: clients ask for the same few models again and again.
_parsed: Final = lru_cache(maxsize=4096)(ModelRef.parse)


class Caller:
    """What the metadata says: the namespace and the request id. Ends a failed call with rich status details."""

    def __init__(self, context: Context, settings: RouterSettings, *, request_id: str = "") -> None:
        self._context = context
        self._settings = settings
        self._metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        # Every error names its request: one that the caller did not name, or not by something that can be shown, too.
        self.given_id = request_id or self._metadata.get(REQUEST_ID_KEY, "") or admission.request_id("")
        self._shown_id = self.given_id if admission.is_request_id(self.given_id) else admission.request_id("")

    @property
    def namespace(self) -> str:
        return admission.namespace(self._metadata.get(NAMESPACE_KEY, ""), self._settings.default_namespace)

    async def answered(self, work: Awaitable[T]) -> T:
        """The result of the work; its error ends the call."""
        try:
            return await work
        except ModelMoraError as error:
            failure = error
        except Exception:  # the request's top
            log.exception("request failed", request_id=self._shown_id)
            failure = InternalError("the router failed on this request", remedy="see its log, and report it")
        return await self._abort(failure)

    async def _abort(self, error: ModelMoraError) -> NoReturn:
        status = to_rpc(abbreviated(error.located(request_id=self._shown_id)))
        await self._context.abort_with_status(rpc_status.to_status(status))


def call_of(
    request: types_pb2.InferenceRequest, *, namespace: str, request_id: str, time_left_s: float | None
) -> InferenceCall:
    """The call that a message asks for.

    Raises:
        InvalidRequest: an id or a priority that is none.
    """
    now = time.monotonic()
    # What this release does not know could be nested too deeply for the worker, and end its stream for all others.
    request.DiscardUnknownFields()
    if request.priority not in _PRIORITIES:
        raise InvalidRequest(
            f"priority {request.priority} is unknown", field="priority", remedy="use CRITICAL, HIGH, NORMAL or LOW"
        )
    return InferenceCall(
        namespace=namespace,
        ref=_parsed(request.model_id),
        input=request.input,
        parameters=request.parameters if request.HasField("parameters") else None,
        priority=_PRIORITIES[request.priority],
        timeout_s=request.timeout_seconds if request.HasField("timeout_seconds") else None,
        deadline=None if time_left_s is None else now + time_left_s,
        request_id=admission.request_id(request_id),
        received_at=now,
    )


def response_of(answer: Answer) -> types_pb2.InferenceResponse:
    """The message for an answer."""
    return types_pb2.InferenceResponse(
        model_id=answer.model_id,
        version=answer.version,
        output=answer.output,
        timing=types_pb2.Timing(queue_ms=answer.queue_ms, inference_ms=answer.inference_ms, total_ms=answer.total_ms),
        request_id=answer.request_id,
    )


def _missing(what: str, remedy: str) -> FeatureUnavailable:
    return FeatureUnavailable(f"{what} is not in this release", remedy=remedy)


async def _refuse(error: ModelMoraError) -> NoReturn:
    raise error


class _Edge:
    """What each service has at hand."""

    def __init__(self, plane: DataPlane, settings: RouterSettings) -> None:
        self._plane = plane
        self._settings = settings


class InferenceEdge(_Edge, inference_pb2_grpc.InferenceServiceServicer):
    """InferenceService."""

    async def Infer(  # noqa: N802 - the name in the protocol
        self, request: types_pb2.InferenceRequest, context: Context
    ) -> types_pb2.InferenceResponse:
        caller = Caller(context, self._settings, request_id=request.request_id)
        return await caller.answered(self._infer(request, context, caller))

    async def _infer(
        self, request: types_pb2.InferenceRequest, context: Context, caller: Caller
    ) -> types_pb2.InferenceResponse:
        call = call_of(
            request,
            namespace=caller.namespace,
            request_id=caller.given_id,
            time_left_s=context.time_remaining(),
        )
        return response_of(await self._plane.infer(call))

    async def InferAsync(  # noqa: N802 - the name in the protocol
        self, request: types_pb2.InferenceRequest, context: Context
    ) -> inference_pb2.JobReference:
        caller = Caller(context, self._settings, request_id=request.request_id)
        return await caller.answered(_refuse(_missing("an asynchronous inference", "call Infer and wait")))

    async def InferStream(  # noqa: N802 - the name in the protocol
        self, _: AsyncIterator[types_pb2.InferenceRequest], context: Context
    ) -> AsyncIterator[types_pb2.InferenceResponse]:
        caller = Caller(context, self._settings)
        yield await caller.answered(_refuse(_missing("a stream of inferences", "call Infer for each request")))


class RegistryEdge(_Edge, registry_pb2_grpc.RegistryServiceServicer):
    """RegistryService: the models, for reading."""

    async def ListModels(  # noqa: N802 - the name in the protocol
        self, request: registry_pb2.ListModelsRequest, context: Context
    ) -> registry_pb2.ListModelsResponse:
        caller = Caller(context, self._settings)
        return await caller.answered(self._list(request, caller))

    async def _list(self, request: registry_pb2.ListModelsRequest, caller: Caller) -> registry_pb2.ListModelsResponse:
        views, next_token = self._plane.models(
            caller.namespace, task=request.task, size=request.page_size, token=request.page_token
        )
        return registry_pb2.ListModelsResponse(
            models=[model_message(view) for view in views], next_page_token=next_token
        )

    async def GetModel(  # noqa: N802 - the name in the protocol
        self, request: registry_pb2.GetModelRequest, context: Context
    ) -> registry_pb2.Model:
        caller = Caller(context, self._settings)
        return await caller.answered(self._get(request, caller))

    async def _get(self, request: registry_pb2.GetModelRequest, caller: Caller) -> registry_pb2.Model:
        return model_message(self._plane.model(caller.namespace, _parsed(request.model_id)), full=True)

    async def RegisterModel(  # noqa: N802 - the name in the protocol
        self, _: registry_pb2.RegisterModelRequest, context: Context
    ) -> registry_pb2.Model:
        return await self._read_only(context, "to register a model", "add its ModelDeployment to the served files")

    async def UpdateModel(  # noqa: N802 - the name in the protocol
        self, _: registry_pb2.UpdateModelRequest, context: Context
    ) -> registry_pb2.Model:
        return await self._read_only(context, "to change a model", "edit its ModelDeployment")

    async def DeleteModel(  # noqa: N802 - the name in the protocol
        self, _: registry_pb2.DeleteModelRequest, context: Context
    ) -> Empty:
        return await self._read_only(context, "to delete a model", "delete its ModelDeployment")

    async def SetActiveVersion(  # noqa: N802 - the name in the protocol
        self, _: registry_pb2.SetActiveVersionRequest, context: Context
    ) -> registry_pb2.Model:
        return await self._read_only(context, "to choose the active version", "ask for id@version")

    async def _read_only(self, context: Context, what: str, remedy: str) -> NoReturn:
        await Caller(context, self._settings).answered(_refuse(_missing(what, remedy)))
        raise AssertionError("unreachable: the call was aborted")


class ManagementEdge(_Edge, management_pb2_grpc.ManagementServiceServicer):
    """ManagementService: load, unload, status."""

    async def LoadModel(  # noqa: N802 - the name in the protocol
        self, request: management_pb2.LoadModelRequest, context: Context
    ) -> registry_pb2.Model:
        caller = Caller(context, self._settings)
        return await caller.answered(self._load(request, caller))

    async def _load(self, request: management_pb2.LoadModelRequest, caller: Caller) -> registry_pb2.Model:
        return model_message(await self._plane.load(caller.namespace, _parsed(request.model_id)))

    async def UnloadModel(  # noqa: N802 - the name in the protocol
        self, request: management_pb2.UnloadModelRequest, context: Context
    ) -> registry_pb2.Model:
        caller = Caller(context, self._settings)
        return await caller.answered(self._unload(request, caller))

    async def _unload(self, request: management_pb2.UnloadModelRequest, caller: Caller) -> registry_pb2.Model:
        return model_message(await self._plane.unload(caller.namespace, _parsed(request.model_id)))

    async def GetStatus(  # noqa: N802 - the name in the protocol
        self, _: management_pb2.GetStatusRequest, context: Context
    ) -> management_pb2.SystemStatus:
        return await Caller(context, self._settings).answered(self._status())

    async def _status(self) -> management_pb2.SystemStatus:
        return system_message(self._plane.system())


class _Registrar:
    """Takes handlers as a server does, and makes bytes that are no message one more error of ours.

    gRPC itself would answer UNKNOWN, and log a traceback for what is the caller's fault.
    """

    def __init__(self, server: grpc.aio.Server, settings: RouterSettings) -> None:
        self._server = server
        self._settings = settings

    def add_generic_rpc_handlers(self, _: object) -> None:
        """The handlers that come by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        forgiving = {
            name: self._forgiving(handler) if handler.unary_unary else handler for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, forgiving),))

    def _forgiving(self, handler: Any) -> Any:  # noqa: ANN401 - grpc.RpcMethodHandler, which has no types
        def read(data: bytes) -> Any:  # noqa: ANN401 - the message, or None
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return None

        async def behave(request: Any, context: Context) -> Any:  # noqa: ANN401 - the messages of any method
            if request is None:
                unreadable = MalformedRequest(
                    "the bytes are no such message",
                    remedy="send a message of modelmora.v1; reflection tells what it is",
                )
                await Caller(context, self._settings).answered(_refuse(unreadable))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(behave, read, handler.response_serializer)


def add_to(server: grpc.aio.Server, plane: DataPlane, settings: RouterSettings) -> None:
    """Serves the three services on this server."""
    registrar: Any = _Registrar(server, settings)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceEdge(plane, settings), registrar)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryEdge(plane, settings), registrar)
    management_pb2_grpc.add_ManagementServiceServicer_to_server(ManagementEdge(plane, settings), registrar)
