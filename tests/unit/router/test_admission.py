"""What is refused before anything is asked about a model."""

import pytest
from google.protobuf.struct_pb2 import Struct

from modelmora.errors import InvalidRequest, MalformedRequest, PayloadTooLarge
from modelmora.v1.types_pb2 import Image, Images, InferenceRequest, Tensor, Text, Value
from modelmora.wire.values import to_values
from modelmora_router.admission import (
    MAX_INPUTS,
    MAX_PARAMETER_BYTES,
    Limits,
    check_input,
    check_parameters,
    check_timeout,
    check_written_once,
    namespace,
    request_id,
)

LIMITS = Limits(max_text_chars=10, max_items=3)


def texts(*items: str) -> Value:
    return Value(text=Text(items=items))


@pytest.mark.parametrize(
    "value",
    [
        texts("a"),
        texts("ä" * 10),
        texts("a", "b", "c"),
        Value(images=Images(items=[Image(data=b"x")])),
        Value(tensor=Tensor()),
    ],
    ids=["text", "as long as may be", "as many as may be", "image", "tensor"],
)
def test_what_is_within_the_limits_enters(value: Value) -> None:
    check_input({"text": value}, LIMITS, size_bytes=1000)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "input"),
        ({"text": Value()}, "input.text"),
        ({"text": texts()}, "input.text"),
        ({"text": Value(images=Images())}, "input.text"),
        ({"\x00": texts("a")}, "input"),
        ({"x" * 65: texts("a")}, "input"),
    ],
    ids=["no input", "no kind", "no texts", "no images", "no name", "long name"],
)
def test_an_input_without_content_is_refused_by_its_path(values: dict[str, Value], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_input(values, LIMITS, size_bytes=1000)
    assert caught.value.context.field == field
    assert caught.value.context.remedy


@pytest.mark.parametrize("value", [texts("a" * 11), texts("a", "b", "c", "d")], ids=["long", "many"])
def test_too_much_is_refused(value: Value) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        check_input({"text": value}, LIMITS, size_bytes=1000)
    assert caught.value.context.field == "input.text"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_span_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_timeout(timeout_s)
    assert caught.value.context.field == "timeoutSeconds"


@pytest.mark.parametrize("timeout_s", [None, 0.001, 3600.0])
def test_a_timeout_may_be_short_long_or_left_out(timeout_s: float | None) -> None:
    check_timeout(timeout_s)


def nested(depth: int) -> Struct:
    struct, inner = Struct(), "end"
    for level in range(depth):
        inner = {"a": inner} if level % 2 else [inner]  # type: ignore[assignment]
    struct.update({"top": inner})
    return struct


def test_parameters_that_a_worker_could_not_read_are_refused() -> None:
    check_parameters(None)
    check_parameters(nested(15))
    with pytest.raises(InvalidRequest) as caught:
        check_parameters(nested(16))
    assert caught.value.context.field == "parameters"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_parameters_that_json_cannot_say_are_refused_wherever_they_are(number: float) -> None:
    for hidden in (number, [number], {"a": [number]}):
        struct = Struct()
        struct.update({"top": hidden})
        with pytest.raises(InvalidRequest) as caught:
            check_parameters(struct)
        assert caught.value.context.field == "parameters"


def test_more_parameters_than_settings_can_be_are_refused() -> None:
    struct = Struct()
    struct.update({"a": "x" * MAX_PARAMETER_BYTES})
    with pytest.raises(PayloadTooLarge):
        check_parameters(struct)


def test_more_inputs_than_a_model_can_have_are_refused() -> None:
    named = {f"input{number}": texts("a") for number in range(MAX_INPUTS + 1)}
    with pytest.raises(PayloadTooLarge) as caught:
        check_input(named, LIMITS, size_bytes=1000)
    assert caught.value.context.field == "input"
    named.popitem()
    check_input(named, LIMITS, size_bytes=1000)


def test_a_request_gets_an_id_if_it_has_none() -> None:
    assert request_id("mine") == "mine"
    assert request_id("") != request_id("")


@pytest.mark.parametrize("given", ["a b", "line\nbreak", "ä", "x" * 129])
def test_an_id_that_would_break_a_log_line_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_id(given)
    assert caught.value.context.field == "requestId"


def test_a_request_is_about_the_default_namespace_unless_it_names_one() -> None:
    assert namespace("", "default") == "default"
    assert namespace("team-a", "default") == "team-a"
    with pytest.raises(InvalidRequest):
        namespace("Team A", "default")


def test_what_is_written_over_costs_the_worker_and_is_refused() -> None:
    images = Value(images=Images(items=[Image()] * 200_000))
    hidden = InferenceRequest(input={"a": images}).SerializeToString()
    data = hidden + InferenceRequest(model_id="one", input=to_values({"a": "hello"})).SerializeToString()
    message = InferenceRequest.FromString(data)
    assert message.ByteSize() < 100
    with pytest.raises(MalformedRequest, match="overwritten"):
        check_written_once(message, size_bytes=len(data))


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_what_is_written_once_passes_whatever_its_size(size: int) -> None:
    data = InferenceRequest(model_id="one", input=to_values({"a": "x" * size})).SerializeToString()
    check_written_once(InferenceRequest.FromString(data), size_bytes=len(data))


def test_no_tensor_has_that_many_dimensions() -> None:
    value = Value(tensor=Tensor(shape=[1] * 33))
    with pytest.raises(InvalidRequest, match="33 dimensions"):
        check_input({"a": value}, LIMITS, size_bytes=1000)
