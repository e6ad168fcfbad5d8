"""A stream of the SDK without its network: what is sent, what is refused before, and how parts become an answer."""

from collections.abc import Iterator

import pytest

from modelmora.client.messages import InferenceResult
from modelmora.client.streams import Exchange, InferenceRequest
from modelmora.errors import InternalError, InvalidRequest, ModelMoraError, QueueFull
from modelmora.v1 import types_pb2
from modelmora.wire.status import to_rpc
from modelmora.wire.values import to_values


def answer(request_id: str = "a", text: str = "hello") -> types_pb2.InferenceResponse:
    return types_pb2.InferenceResponse(model_id="one", request_id=request_id, output=to_values({"text": text}))


def parts(whole: types_pb2.InferenceResponse, size: int = 7) -> list[types_pb2.InferenceResponse]:
    data = whole.SerializeToString()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [
        types_pb2.InferenceResponse(
            request_id=whole.request_id, part=types_pb2.Part(index=index, last=index == len(pieces) - 1, data=piece)
        )
        for index, piece in enumerate(pieces)
    ]


def test_every_request_gets_an_id_and_those_that_cannot_travel_an_error() -> None:
    exchange = Exchange(endpoint="here")
    given = [
        InferenceRequest("one", "a"),
        InferenceRequest("one", "\ud800", request_id="no text"),
        InferenceRequest("one", "b", request_id="same"),
        InferenceRequest("one", "c", request_id="same"),
        InferenceRequest("one", "d", priority="URGENT", request_id="no priority"),
    ]
    sent = list(exchange.messages(given))
    assert [bool(message.model_id) for message in sent] == [True, False, True, False, False]
    assert len({message.request_id for message in sent}) == 5
    assert sent[2].request_id == "same"
    refused = [exchange.result(unlike(message)) for message in sent if not message.model_id]
    assert [error.context.request_id for error in refused if isinstance(error, InvalidRequest)] == [
        "no text",
        "same",
        "no priority",
    ]


def unlike(message: types_pb2.InferenceRequest) -> types_pb2.InferenceResponse:
    """What a server answers to what is no request."""
    return types_pb2.InferenceResponse(request_id=message.request_id, error=to_rpc(InvalidRequest("of no model")))


def test_an_id_is_free_again_when_it_is_answered() -> None:
    exchange = Exchange(endpoint="here")
    assert exchange.message(InferenceRequest("one", "a", request_id="a")).model_id
    exchange.result(answer("a"))
    assert exchange.message(InferenceRequest("one", "a", request_id="a")).model_id


def test_an_iterable_that_fails_ends_the_messages_and_is_remembered() -> None:
    def failing() -> Iterator[InferenceRequest]:
        yield InferenceRequest("one", "a")
        raise ZeroDivisionError

    exchange = Exchange(endpoint="here")
    assert len(list(exchange.messages(failing()))) == 1
    assert isinstance(exchange.failure, ZeroDivisionError)


def test_an_error_on_the_stream_is_that_error() -> None:
    error = QueueFull("full", retry_after_s=1.5)
    got = Exchange(endpoint="here").result(types_pb2.InferenceResponse(request_id="a", error=to_rpc(error)))
    assert isinstance(got, ModelMoraError)
    assert (type(got), got.context.request_id, got.context.retry_after_s) == (QueueFull, "a", 1.5)


@pytest.mark.req("RM-2.3c")
def test_parts_of_two_answers_that_alternate_become_two_answers() -> None:
    exchange = Exchange(endpoint="here")
    first, second = parts(answer("a", "x" * 100)), parts(answer("b", "y" * 100))
    got = [exchange.result(message) for pair in zip(first, second, strict=True) for message in pair]
    whole = [result for result in got if result is not None]
    assert got[:-2] == [None] * (len(got) - 2)
    assert all(isinstance(result, InferenceResult) for result in whole)
    assert [result.output["text"] for result in whole if isinstance(result, InferenceResult)] == [
        ["x" * 100],
        ["y" * 100],
    ]


@pytest.mark.parametrize("missing", [0, 3])
def test_a_part_that_is_missing_is_noticed(missing: int) -> None:
    exchange = Exchange(endpoint="here")
    messages = parts(answer("a", "x" * 100))
    del messages[missing]
    with pytest.raises(InternalError):
        _ = [exchange.result(message) for message in messages]
