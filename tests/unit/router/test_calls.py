"""A request and its answer on their way through the router, as the bytes they came as."""

import pytest
from google.rpc.status_pb2 import Status

from modelmora.errors import MalformedRequest
from modelmora.v1.types_pb2 import InferenceRequest, InferenceResponse, Part, Timing
from modelmora_router.calls import Answer, Payload, is_output
from modelmora_router.edges.grpc_calls import response_of
from tests.support.entries import output_of
from tests.support.routing import request


def test_what_came_is_what_goes_on_also_what_this_release_does_not_know() -> None:
    data = request("a", request_id="mine").SerializeToString() + b"\x98\x06\x01"  # field 99
    payload = Payload.read(data)
    assert (payload.data, payload.size_bytes, payload.request_id) == (data, len(data), "mine")


def test_once_checked_it_is_held_as_bytes_alone_and_can_be_read_again() -> None:
    payload = Payload.of(request("a"))
    assert payload.message() is payload.message()
    payload.checked()
    assert payload.message() is not payload.message()
    assert payload.message() == InferenceRequest.FromString(payload.data)


def test_bytes_that_are_no_request_say_so_when_they_are_looked_into() -> None:
    payload = Payload.read(b"\xff\xff")
    assert payload.request_id == ""
    with pytest.raises(MalformedRequest, match="no such message"):
        payload.message()


def test_an_answer_is_the_output_of_the_worker_with_the_rest_from_the_router() -> None:
    forged = InferenceResponse(model_id="another", version="9.9.9", request_id="yours").SerializeToString()
    output = forged + output_of(text=["a"])
    answer = Answer(
        model_id="one", version="1.0.0", output=output, queue_ms=1.0, inference_ms=2.0, total_ms=3.0, request_id="mine"
    )
    response = InferenceResponse.FromString(response_of(answer))
    assert (response.model_id, response.version, response.request_id) == ("one", "1.0.0", "mine")
    assert response.output["text"].text.items == ["a"]
    assert (response.timing.queue_ms, response.timing.inference_ms, response.timing.total_ms) == (1.0, 2.0, 3.0)


def test_an_output_is_known_from_garbage() -> None:
    assert is_output(b"")
    assert is_output(output_of(text=["a"]))
    assert not is_output(b"\xff\xff")


@pytest.mark.parametrize(
    "forged",
    [
        InferenceResponse(part=Part(last=True, data=InferenceResponse(request_id="another's").SerializeToString())),
        InferenceResponse(error=Status(code=13)),
        InferenceResponse(timing=Timing(queue_ms=1.0)),
    ],
    ids=["part", "error", "timing"],
)
def test_what_only_the_router_says_is_no_output(forged: InferenceResponse) -> None:
    assert not is_output(output_of(text=["a"]) + forged.SerializeToString())
