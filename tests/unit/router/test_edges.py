"""What the edges do when the router behind them has a bug."""

from typing import Any, NoReturn

import grpc
import httpx
import pytest
from grpc_status import rpc_status

from modelmora.control.local import LocalControl
from modelmora.errors import InternalError
from modelmora.wire.status import from_rpc
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges.grpc_calls import Caller
from modelmora_router.edges.rest import application
from modelmora_router.settings import RouterSettings


class BuggyPlane(DataPlane):
    """A router with a bug in one place."""

    def system(self) -> NoReturn:
        raise ZeroDivisionError("a secret of the inside")


@pytest.mark.req("RM-1.4e")
async def test_a_bug_is_one_problem_on_rest_and_tells_nothing_of_the_inside() -> None:
    app = application(BuggyPlane(RouterSettings(), LocalControl()), RouterSettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as http:
        answer = await http.get("/api/v1/status", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (answer.json()["code"], answer.json()["requestId"]) == ("INTERNAL_ERROR", "mine")
    assert "secret" not in answer.text


class BuggyDoor(DataPlane):
    """A router with a bug in the way of every inference."""

    def _check(self, _: Any) -> NoReturn:
        raise ZeroDivisionError("a secret of the inside")

    def _refuse_unless_ready(self) -> None:
        """As if it had heard of its models."""


async def test_an_inference_that_ends_in_a_bug_is_counted() -> None:
    plane = BuggyDoor(RouterSettings(), LocalControl())
    transport = httpx.ASGITransport(application(plane, RouterSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as http:
        answer = await http.post("/api/v1/infer/one", json={"input": {"text": "hello"}})
        assert answer.status_code == 500
        counted = (await http.get("/metrics")).text
    assert 'model="",model_namespace="",status="error",task="",version=""} 1.0' in counted
    assert 'code="INTERNAL_ERROR"' in counted


class Context:
    """The server's side of a call that remembers how it was ended."""

    def __init__(self) -> None:
        self.status: Any = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "mine"),)

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.status = status
        raise grpc.aio.AbortError


async def test_a_bug_is_one_status_on_grpc_and_tells_nothing_of_the_inside() -> None:
    async def fail() -> None:
        raise ZeroDivisionError("a secret of the inside")

    context = Context()
    with pytest.raises(grpc.aio.AbortError):
        await Caller(context, RouterSettings()).answered(fail())  # type: ignore[arg-type]  # a fake context

    class Ended:
        def trailing_metadata(self) -> Any:
            return context.status.trailing_metadata

        def code(self) -> Any:
            return context.status.code

        def details(self) -> Any:
            return context.status.details

    error = from_rpc(rpc_status.from_call(Ended()))
    assert type(error) is InternalError
    assert error.context.request_id == "mine"
    assert "secret" not in error.message
