"""What the SDK refuses before anything is sent: as its own errors, never as those of the libraries below it."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from modelmora.client import Client, calls, messages
from modelmora.client.calls import Call
from modelmora.errors import InvalidRequest, ServerUnavailable


def infer(model_id: Any = "one", value: Any = "hello", **given: Any) -> Call[Any]:
    fields = {"parameters": None, "priority": None, "timeout_seconds": None, "request_id": ""} | given
    return calls.infer(model_id, value, **fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: infer("\ud800"),
        lambda: infer(value="\ud800"),
        lambda: infer(value={"\ud800": "a"}),
        lambda: infer(value={1: "a"}),
        lambda: infer(value=None),
        lambda: infer(parameters={"a": 10**400}),
        lambda: infer(parameters={"a": "\ud800"}),
        lambda: infer(parameters={1: 2}),
        lambda: infer(priority=7),
        lambda: infer(request_id="\ud800"),
        lambda: infer(timeout_seconds="5"),
        lambda: infer(timeout_seconds=float("nan")),
        lambda: calls.get_model("\ud800"),
        lambda: calls.load("\ud800"),
        lambda: calls.unload("\ud800"),
        lambda: calls.list_models("\ud800", ""),
        lambda: Client(namespace="ü"),
        lambda: Client(namespace="a\nb"),
    ],
)
def test_what_cannot_travel_is_an_invalid_request(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.context.remedy
    assert caught.value.message.isprintable()


def test_a_deadline_is_a_number_and_infinity_is_none() -> None:
    assert messages.time_limit(5) == 5
    assert messages.time_limit(float("inf")) is None
    assert messages.time_limit(1e300) is None
    with pytest.raises(InvalidRequest):
        messages.time_limit(float("nan"))


@pytest.mark.req("US2-AS3", "FR-009")
@pytest.mark.parametrize(
    ("details", "said", "remedy"),
    [
        ("failed to connect to all addresses", "no ModelMora server answers at h:1", "start one"),
        ("DNS resolution failed for h:1", "no ModelMora server answers at h:1", "start one"),
        ("Stream removed", "the connection to h:1 was lost during the call", "send the request again"),
        (
            "recvmsg:Connection reset by peer",
            "the connection to h:1 was lost during the call",
            "send the request again",
        ),
    ],
)
def test_who_was_never_there_and_who_went_are_told_apart(details: str, said: str, remedy: str) -> None:
    none = grpc.aio.Metadata()
    error = messages.failure(
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details=details), endpoint="h:1"
    )
    assert isinstance(error, ServerUnavailable)
    assert error.message == f"{said}: {details}"
    assert error.context.remedy.startswith(remedy)


@pytest.mark.parametrize("said", ["/run/model.sock", "unix:/run/model.sock"])
def test_the_socket_of_a_worker_may_be_named_as_a_path_or_as_a_target(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELMORA_SOCKET", said)
    with Client() as client:
        assert client.target == "unix:/run/model.sock"
    monkeypatch.setenv("MODELMORA_SOCKET", "")
    with Client() as client:
        assert client.target == "localhost:9000"
