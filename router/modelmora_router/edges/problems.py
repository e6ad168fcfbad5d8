"""What surrounds every REST request: its id, its trace, one shape for all that goes wrong: problem+json (RFC 9457)."""

import json
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelmora.errors import InternalError, InvalidRequest, ModelMoraError
from modelmora.wire.status import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE, codes, to_problem
from modelmora_router import admission
from modelmora_router.edges.schemas import invalid
from modelmora_router.tracing import context_of

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER: Final = "x-request-id"
TRACE_HEADER: Final = "traceparent"


def problem(error: ModelMoraError, *, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """The answer for an error."""
    located = error.located(request_id=request_id)
    retry_after_s = located.context.retry_after_s
    retry = {} if retry_after_s is None else {"retry-after": str(math.ceil(retry_after_s))}
    return Response(
        json.dumps(to_problem(located)),
        status_code=codes(located).http,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=retry | (headers or {}),
    )


def add_handlers(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(ModelMoraError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unforeseen)


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelMoraError)  # noqa: S101 - it is registered for these
    return problem(error, request_id=request.state.request_id)


async def _on_unforeseen(request: Request, _: Exception) -> Response:
    # Starlette sends this and raises the exception again: the envelope logs it.
    return problem(_unforeseen(), request_id=request.state.request_id)


def _unforeseen() -> InternalError:
    return InternalError("the router failed on this request", remedy="see its log, and report it")


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for these
    # The first segment says where: query, path, header.
    return problem(invalid(error.errors(), skip=1), request_id=request.state.request_id)


async def _on_http(request: Request, error: Exception) -> Response:
    """No such route, or not with this method: about the interface, not about a model, so not one of our errors."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    status = HTTPStatus(error.status_code)
    code = "ROUTE_NOT_FOUND" if status == HTTPStatus.NOT_FOUND else status.name
    body = {
        "type": PROBLEM_TYPE + code.lower().replace("_", "-"),
        "title": status.phrase,
        "status": status.value,
        "detail": f"{request.method} {request.url.path} is not part of this interface",
        "code": code,
        "remedy": "see /docs for the routes that there are",
        "requestId": request.state.request_id,
    }
    return Response(json.dumps(body), status_code=status, media_type=PROBLEM_MEDIA_TYPE, headers=error.headers)


class Envelope:
    """The outermost layer: names each request, and is the top at which an unforeseen exception ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            answer.name()
            await self._app(scope, receive, answer.send)
        except InvalidRequest as error:  # the request id itself is wrong
            await answer.fail(error, receive)
        except Exception:  # the request's top
            log.exception("request failed", request_id=answer.request_id, path=scope["path"])
            await answer.fail(_unforeseen(), receive)


class _Answer:
    """One request on its way out: its id and its trace are added to the headers."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send: Callable[[Message], Awaitable[None]] = send
        self._started = False
        self._headers = Headers(scope=scope)
        self._traceparent = context_of(self._headers.get(TRACE_HEADER, ""))
        self.request_id = admission.request_id("")

    def name(self) -> None:
        state = self._scope.setdefault("state", {})
        state |= {"request_id": self.request_id, "traceparent": self._traceparent}
        given = self._headers.get(REQUEST_ID_HEADER, "")
        state["request_id"] = self.request_id = admission.request_id(given) if given else self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self.request_id
            headers[TRACE_HEADER] = self._traceparent
        await self._send(message)

    async def fail(self, error: ModelMoraError, receive: Receive) -> None:
        if not self._started:
            response: Any = problem(error, request_id=self.request_id)
            await response(self._scope, receive, self.send)
