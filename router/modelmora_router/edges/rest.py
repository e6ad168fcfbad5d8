"""REST: `/api/v1` by FastAPI, health for probes, and the short paths without a version as other names of the same.

Model ids hold slashes, raw or as %2F, so a path is matched with its action last: `…/models/org/name/load`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi_offline import FastAPIOffline
from starlette.responses import Response
from starlette.types import ASGIApp

from modelmora.errors import FeatureUnavailable, ModelMoraError, RequestCancelled
from modelmora.spec import ModelRef
from modelmora.v1.types_pb2 import InferenceResponse
from modelmora_router import admission
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges import schemas
from modelmora_router.edges.bodies import off_loop, received
from modelmora_router.edges.metrics import metrics
from modelmora_router.edges.problems import Envelope, add_handlers
from modelmora_router.edges.schemas import AnswerBody, InferenceBody, ProblemBody
from modelmora_router.edges.views import health_json, model_json, system_json
from modelmora_router.settings import RouterSettings
from modelmora_router.siblings import Siblings, State

T = TypeVar("T")

NAMESPACE_HEADER: Final = "modelmora-namespace"
CLIENT_HEADER: Final = "modelmora-client"
IDEMPOTENT_HEADER: Final = "modelmora-idempotent"
_Handler = Callable[..., Awaitable[Response]]

# Method, path, what it would be, what to do instead.
_NOT_BUILT: Final = (
    ("POST", "/infer/{model_id:path}/async", "an asynchronous inference", "send it without /async and wait"),
    ("GET", "/jobs/{job_id}", "a job", "send the inference without /async and wait"),
    ("GET", "/jobs/{job_id}/result", "a job's result", "send the inference without /async and wait"),
    ("POST", "/models", "to register a model", "add its ModelDeployment to the served files"),
    ("POST", "/models/{model_id:path}/download", "to fetch a model ahead", "load it: that fetches it"),
    ("POST", "/models/{model_id:path}/versions/{version}", "to choose the active version", "ask for id@version"),
    ("PUT", "/models/{model_id:path}", "to change a model", "edit its ModelDeployment"),
    ("DELETE", "/models/{model_id:path}", "to delete a model", "delete its ModelDeployment"),
)


def application(plane: DataPlane, settings: RouterSettings, siblings: Siblings | None = None) -> ASGIApp:
    """The ASGI application; with siblings, what is told of this process is told of all."""
    # Its pages bring their scripts along: a cluster without internet has them too, and no reader is told to anyone.
    app = FastAPIOffline(
        title="ModelMora",
        version=plane.version,
        description="Inference, and the models that there are. Errors are problem+json (RFC 9457) throughout.",
        responses={"default": {"model": ProblemBody, "description": "What went wrong", "content": _PROBLEM_CONTENT}},
    )
    add_handlers(app)
    edge = RestEdge(plane, settings, siblings)
    app.include_router(metrics(plane.meters, siblings), prefix="/api/v1")
    app.include_router(edge.versioned(), prefix="/api/v1")
    app.include_router(edge.health())
    app.include_router(edge.aliases())
    app.include_router(metrics(plane.meters, siblings))
    return Envelope(app)


_PROBLEM_CONTENT: Final[dict[str, Any]] = {"application/problem+json": {}}
_INFERENCE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": InferenceBody.model_json_schema(by_alias=True)}},
    }
}


class RestEdge:
    """The handlers, and the routes that lead to them."""

    def __init__(self, plane: DataPlane, settings: RouterSettings, siblings: Siblings | None) -> None:
        self._plane = plane
        self._settings = settings
        self._siblings = siblings

    # ------------------------------------------------------------------------------------------------ routes

    def versioned(self) -> APIRouter:
        """What lies below /api/v1. The more special path of two comes first."""
        router = APIRouter()
        for method, path, what, remedy in _NOT_BUILT:
            router.add_api_route(path, _not_built(what, remedy), methods=[method], include_in_schema=False)
        router.add_api_route(
            "/infer/{model_id:path}",
            self.infer,
            methods=["POST"],
            response_model=AnswerBody,
            openapi_extra=_INFERENCE_BODY,
            tags=["inference"],
            summary="Infer",
        )
        for action in ("load", "warmup"):
            path = f"/models/{{model_id:path}}/{action}"
            router.add_api_route(path, self.load, methods=["POST"], tags=["models"], name=action, summary="Load")
        router.add_api_route("/models/{model_id:path}/unload", self.unload, methods=["POST"], tags=["models"])
        router.add_api_route("/models", self.list_models, methods=["GET"], tags=["models"])
        router.add_api_route("/models/{model_id:path}", self.get_model, methods=["GET"], tags=["models"])
        router.add_api_route("/status", self.status, methods=["GET"], tags=["system"])
        return router

    def health(self) -> APIRouter:
        """What probes ask."""
        router = APIRouter(prefix="/health", tags=["health"])
        router.add_api_route("/live", self.live, methods=["GET"])
        router.add_api_route("/ready", self.ready, methods=["GET"])
        router.add_api_route("/models", self.models_health, methods=["GET"])
        router.add_api_route("", self.components, methods=["GET"])
        return router

    def aliases(self) -> APIRouter:
        """The short paths."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/models", self.list_models, methods=["GET"])
        router.add_api_route("/infer/{model_id:path}", self.infer, methods=["POST"])
        return router

    # ------------------------------------------------------------------------------------------------ handlers

    async def infer(self, request: Request, model_id: str) -> Response:
        """Asks a model, waking it if it sleeps. `model_id` is "id" or "id@version"."""
        try:
            call = await self._call(request, model_id)
        except ModelMoraError as error:
            self._plane.refused(error)
            raise
        answer = await _while_connected(request, self._plane.infer(call))
        return _json_bytes(await off_loop(len(answer.output), lambda: schemas.dump_json(_answer_json(answer))))

    async def list_models(
        self,
        request: Request,
        task: Annotated[str, Query(description="only models of this task", max_length=253)] = "",
        page_size: Annotated[int, Query(alias="pageSize", description="at most so many; 0 = 100")] = 0,
        page_token: Annotated[str, Query(alias="pageToken", description="nextPageToken of the page before")] = "",
    ) -> Response:
        """The models of the namespace, by id and version."""
        views, next_token = self._plane.models(self._namespace(request), task=task, size=page_size, token=page_token)
        return _json({"models": [model_json(view) for view in views], "nextPageToken": next_token})

    async def get_model(self, request: Request, model_id: str) -> Response:
        """One model with its spec and status. `model_id` is "id" or "id@version"."""
        view = self._plane.model(self._namespace(request), ModelRef.parse(model_id))
        return _json(model_json(view, full=True))

    async def load(self, request: Request, model_id: str) -> Response:
        """Wakes a model and answers once it serves."""
        work = self._plane.load(self._namespace(request), ModelRef.parse(model_id))
        return _json(model_json(await _while_connected(request, work), full=True))

    async def unload(self, request: Request, model_id: str) -> Response:
        """Lets a model go to zero now, and answers once its workers have ended."""
        work = self._plane.unload(self._namespace(request), ModelRef.parse(model_id))
        return _json(model_json(await _while_connected(request, work), full=True))

    async def status(self) -> Response:
        """The router, and the models that it serves, loaded ones first."""
        return _json(system_json(self._plane.system()))

    async def live(self) -> Response:
        """200 while the process works, and every other one on its ports."""
        others = await self._siblings.states() if self._siblings else {}
        stuck = [number for number, state in others.items() if state is State.SILENT]
        code = HTTPStatus.SERVICE_UNAVAILABLE if stuck else HTTPStatus.OK
        return _json({"status": "stuck", "processes": stuck} if stuck else {"status": "alive"}, code=code)

    async def ready(self) -> Response:
        """200 when requests are taken, else 503."""
        components = await self._components()
        ready = _all_ready(components)
        code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json({"status": "ready" if ready else "not ready", "components": components}, code=code)

    async def components(self) -> Response:
        """200 with the state of each component."""
        components = await self._components()
        return _json({"status": "healthy" if _all_ready(components) else "not ready", "components": components})

    async def models_health(self) -> Response:
        """Which models can be used, and why others cannot."""
        return _json({"models": [health_json(view.deployment) for view in self._plane.system().models]})

    async def _components(self) -> dict[str, str]:
        others = await self._siblings.states() if self._siblings else {}
        return {**self._plane.components(), **{f"process {number}": state.value for number, state in others.items()}}

    # ------------------------------------------------------------------------------------------------ requests

    def _namespace(self, request: Request) -> str:
        return admission.namespace(request.headers.get(NAMESPACE_HEADER, ""), self._settings.default_namespace)

    async def _call(self, request: Request, model_id: str) -> InferenceCall:
        received_at, headers = time.monotonic(), request.headers
        namespace, ref = self._namespace(request), ModelRef.parse(model_id)
        client = admission.client(headers.get(CLIENT_HEADER, ""), request.client.host if request.client else "")
        idempotent = admission.idempotent(headers.get(IDEMPOTENT_HEADER, ""))
        body = await received(request, self._settings, self._plane.reading)
        return InferenceCall(
            namespace=namespace,
            ref=ref,
            payload=body.payload,
            priority=body.priority,
            timeout_s=body.timeout_s,
            deadline=None,
            request_id=request.state.request_id,
            received_at=received_at,
            client=client,
            headers=dict(headers.items()),
            traceparent=request.state.traceparent,
            idempotent=idempotent,
        )


def _all_ready(components: Mapping[str, str]) -> bool:
    """A process that is starting does not listen yet, so nothing comes to it: the others are ready without it."""
    return all(state in {"ready", State.STARTING} for state in components.values())


def _not_built(what: str, remedy: str) -> _Handler:
    async def refuse() -> Response:
        raise FeatureUnavailable(f"{what} is not in this release", remedy=remedy)

    return refuse


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of the work, which is cancelled when the client hangs up.

    Raises:
        RequestCancelled: it hung up.
        ModelMoraError: the work failed.
    """
    outcome: T | ModelMoraError
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_until_disconnected(request), name="client of a request")
            try:
                outcome = await work
            except ModelMoraError as error:  # an error that left the group would leave it wrapped
                outcome = error
            watcher.cancel()
    except* RequestCancelled:
        outcome = RequestCancelled("the client hung up")
    if isinstance(outcome, ModelMoraError):
        raise outcome
    return outcome


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise RequestCancelled("the client hung up")


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "modelId": answer.model_id,
        "version": answer.version,
        "output": schemas.output_json(InferenceResponse.FromString(answer.output).output),
        "timing": {
            "queueMs": round(answer.queue_ms, 3),
            "inferenceMs": round(answer.inference_ms, 3),
            "totalMs": round(answer.total_ms, 3),
        },
        "requestId": answer.request_id,
    }


def _json(body: dict[str, Any], *, code: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(body), status_code=code, media_type="application/json")


def _json_bytes(body: bytes) -> Response:
    return Response(body, media_type="application/json")
