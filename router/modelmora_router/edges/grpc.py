"""gRPC: `modelmora.v1` as it is, no JSON and no pydantic on the way of an inference."""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from modelmora.errors import FeatureUnavailable, ModelMoraError
from modelmora.v1 import (
    inference_pb2,
    management_pb2,
    management_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from modelmora_router.calls import Payload, unreadable
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.grpc_calls import Caller, Context, parsed, response_of
from modelmora_router.edges.streams import Conversation
from modelmora_router.edges.views import model_message, system_message
from modelmora_router.settings import RouterSettings

INFERENCE: Final = "modelmora.v1.InferenceService"


def _missing(what: str, remedy: str) -> FeatureUnavailable:
    return FeatureUnavailable(f"{what} is not in this release", remedy=remedy)


async def _refuse(error: ModelMoraError) -> NoReturn:
    raise error


class _Edge:
    """What each service has at hand."""

    def __init__(self, plane: DataPlane, settings: RouterSettings) -> None:
        self._plane = plane
        self._settings = settings


class InferenceEdge(_Edge):
    """InferenceService. Its methods take what was received, not only the message."""

    def handlers(self) -> grpc.GenericRpcHandler:
        """The methods, by hand: the bytes that come are handed on, and those that go are there already."""
        job = inference_pb2.JobReference.SerializeToString
        methods = {
            "Infer": grpc.unary_unary_rpc_method_handler(self.infer, Payload.read, None),
            "InferAsync": grpc.unary_unary_rpc_method_handler(self.infer_async, Payload.read, job),
            "InferStream": grpc.stream_stream_rpc_method_handler(self.infer_stream, Payload.read, None),
        }
        return grpc.method_handlers_generic_handler(INFERENCE, methods)

    async def infer(self, payload: Payload, context: Context) -> bytes:
        caller = Caller(context, self._settings, request_id=payload.request_id)
        return await caller.answered(self._infer(payload, caller))

    async def _infer(self, payload: Payload, caller: Caller) -> bytes:
        try:
            call = caller.call(payload)
        except ModelMoraError as error:
            self._plane.refused(error)
            raise
        return response_of(await self._plane.infer(call))

    async def infer_async(self, payload: Payload, context: Context) -> inference_pb2.JobReference:
        caller = Caller(context, self._settings, request_id=payload.request_id)
        return await caller.answered(_refuse(_missing("an asynchronous inference", "call Infer and wait")))

    async def infer_stream(self, _: object, context: Context) -> None:
        caller = Caller(context, self._settings)
        settings = self._settings
        conversation = Conversation(
            self._plane, context, caller, settings.max_unanswered, write_timeout_s=settings.write_timeout_s
        )
        await caller.answered(conversation.run())


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
        return model_message(self._plane.model(caller.namespace, parsed(request.model_id)), full=True)

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
        return model_message(await self._plane.load(caller.namespace, parsed(request.model_id)))

    async def UnloadModel(  # noqa: N802 - the name in the protocol
        self, request: management_pb2.UnloadModelRequest, context: Context
    ) -> registry_pb2.Model:
        caller = Caller(context, self._settings)
        return await caller.answered(self._unload(request, caller))

    async def _unload(self, request: management_pb2.UnloadModelRequest, caller: Caller) -> registry_pb2.Model:
        return model_message(await self._plane.unload(caller.namespace, parsed(request.model_id)))

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
        forgiving = {name: self._forgiving(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, forgiving),))

    def _forgiving(self, handler: Any) -> Any:  # noqa: ANN401 - grpc.RpcMethodHandler, which has no types
        def read(data: bytes) -> Any:  # noqa: ANN401 - the message, or None
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return None

        async def behave(request: Any, context: Context) -> Any:  # noqa: ANN401 - the messages of any method
            if request is None:
                await Caller(context, self._settings).answered(_refuse(unreadable()))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(behave, read, handler.response_serializer)


def add_to(server: grpc.aio.Server, plane: DataPlane, settings: RouterSettings) -> None:
    """Serves the three services on this server."""
    server.add_generic_rpc_handlers((InferenceEdge(plane, settings).handlers(),))
    registrar: Any = _Registrar(server, settings)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryEdge(plane, settings), registrar)
    management_pb2_grpc.add_ManagementServiceServicer_to_server(ManagementEdge(plane, settings), registrar)
