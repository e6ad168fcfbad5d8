"""The bodies of REST: what a request may hold, and how values look as JSON.

Texts are strings, tensors nested lists of numbers, images objects with `base64`. JSON has no NaN, no infinity and no
half surrogates; what has them is refused by name.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from modelmora.errors import InferenceFailed, InvalidRequest, MalformedRequest, ModelMoraError
from modelmora.spec import Priority
from modelmora.v1.types_pb2 import Image, Images, Value
from modelmora.wire.values import from_value, to_value
from modelmora_router.admission import MAX_INPUTS, check_parameter_size

FloatArray: TypeAlias = "npt.NDArray[np.floating[Any]]"

_MAX_PROBLEMS: Final = 5
_LARGEST: Final = "3.4e38"
_VALUE_REMEDY: Final = (
    'give a text, a list of texts, {"base64": "…"} for an encoded image or a list of them, or nested lists of numbers'
)


class _Body(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class InferenceBody(_Body):
    """A request for an inference."""

    input: dict[str, Any] = Field(max_length=MAX_INPUTS, examples=[{"text": ["hello", "world"]}])
    """Named inputs: a text, a list of texts, {"base64": "…"} or a list of them, or nested lists of numbers."""
    parameters: dict[str, Any] = {}
    """Task-specific settings of this call, for example {"normalize": true}."""
    priority: str | int | None = Field(default=None, examples=["HIGH"])
    """CRITICAL, HIGH, NORMAL (or MEDIUM) or LOW; default is the deployment's queue.defaultPriority."""
    timeout_seconds: Annotated[float | None, Field(json_schema_extra={"exclusiveMinimum": 0})] = None
    """How long the caller waits once the model can be dispatched to; default is queue.timeoutSeconds."""


class TimingBody(_Body):
    """Where the time went, in milliseconds."""

    queue_ms: float
    """Waiting: everything from admission to the reply that was not the engine; a cold start included."""
    inference_ms: float
    """In the engine."""
    total_ms: float
    """From admission to the reply."""


class AnswerBody(_Body):
    """The answer to an inference."""

    model_id: str
    version: str
    output: dict[str, Any] = Field(examples=[{"embeddings": [[0.1, 0.2]]}])
    timing: TimingBody
    request_id: str


class ProblemBody(_Body):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(examples=["MODEL_NOT_FOUND"])
    model_id: str = ""
    field: str = ""
    remedy: str = ""
    reason: str = ""
    request_id: str = ""
    retry_after_seconds: float | None = None
    needed_bytes: int | None = None


# ------------------------------------------------------------------------------------------------ requests


def parse_json(body: bytes) -> object:
    """What the bytes say.

    Raises:
        MalformedRequest: they are no JSON.
    """
    try:
        return json.loads(body.decode(), parse_constant=_no_json, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise _malformed("the body is nested too deeply") from None
    except ValueError as error:
        raise _malformed(f"the body is not JSON: {error}") from None


def _malformed(message: str) -> MalformedRequest:
    return MalformedRequest(message, remedy='send a JSON object in UTF-8, for example {"input": {"text": "hello"}}')


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is beyond the numbers that can be represented")
    return value


def inference_body(body: bytes) -> InferenceBody:
    """The request in the bytes.

    Raises:
        MalformedRequest: they are no JSON.
        InvalidRequest: they are no such request; `field` is the first thing that is wrong, the message names all.
    """
    try:
        return InferenceBody.model_validate(parse_json(body))
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False, include_input=False)) from None


def invalid(problems: Sequence[Mapping[str, Any]], *, skip: int = 0) -> InvalidRequest:
    """The error for what pydantic found; `skip` segments of each path are not the caller's words."""
    found = [(".".join(str(part) for part in problem["loc"][skip:]), problem["msg"]) for problem in problems]
    shown = "; ".join(f"{path}: {message}" if path else message for path, message in found[:_MAX_PROBLEMS])
    return InvalidRequest(
        f"the request is wrong: {shown}",
        field=_without_variant(found[0][0]),
        remedy="send what /openapi.json describes",
    )


def _without_variant(path: str) -> str:
    """The path without the member of the union that pydantic tried (priority.str)."""
    return path.removesuffix(".str").removesuffix(".int")


def input_values(inputs: Mapping[str, Any]) -> dict[str, Value]:
    """The messages for the inputs.

    Raises:
        InvalidRequest: a value that is none; `field` is its path.
    """
    return {name: _value(value, field=f"input.{name}") for name, value in inputs.items()}


def _value(value: object, *, field: str) -> Value:
    match value:
        case str():
            return _text_value([value], field=field)
        case [str(), *_]:
            return _text_value(value, field=field)
        case {"base64": _} | [{"base64": _}, *_]:
            return _images_value(value if isinstance(value, list) else [value], field=field)
        case [int() | float() | list(), *_]:
            return _tensor_value(value, field=field)
        case []:
            raise InvalidRequest(f"{field} is an empty list", field=field, remedy="give at least one item")
    raise InvalidRequest(f"{field} is {_described(value)}", field=field, remedy=_VALUE_REMEDY)


def _described(value: object) -> str:
    names = {dict: "an object", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "a list of other things")


def _text_value(items: Sequence[object], *, field: str) -> Value:
    texts: list[str] = []
    for index, text in enumerate(items):
        if not isinstance(text, str):
            path = f"{field}[{index}]"
            raise InvalidRequest(f"{path} is {_described(text)} among texts", field=path, remedy=_VALUE_REMEDY)
        texts.append(text)
    return to_value(texts, field=field)


def _images_value(items: list[Any], *, field: str) -> Value:
    return Value(images=Images(items=[_image(item, field=f"{field}[{index}]") for index, item in enumerate(items)]))


def _image(item: object, *, field: str) -> Image:
    match item:
        case {"base64": str(encoded), "mediaType": str(media_type), **rest} if not rest:
            pass
        case {"base64": str(encoded), **rest} if not rest:
            media_type = ""
        case _:
            raise InvalidRequest(f"{field} is no image", field=field, remedy='give {"base64": "…", "mediaType": "…"}')
    try:
        return Image(data=base64.b64decode(encoded, validate=True), media_type=media_type)
    except ValueError:
        raise InvalidRequest(f"{field} is not base64", field=f"{field}.base64", remedy="encode the file") from None


def _tensor_value(value: object, *, field: str) -> Value:
    try:
        # As objects first: a text among numbers would make each element as long as that text.
        kinds = set(map(type, np.asarray(value, dtype=object).flat))
        array = np.asarray(value if kinds <= {bool, int, float} else None)
    except (ValueError, OverflowError, RuntimeError):  # ragged lists; integers beyond 64 bits; beyond 32 dimensions
        array = np.asarray(None)
    if array.dtype.kind not in "bif":
        raise InvalidRequest(
            f"{field} is no tensor: its lists differ in length, are nested too deeply, or hold other things than "
            "numbers",
            field=field,
            remedy=_VALUE_REMEDY,
        )
    return to_value(_single(array, field=field) if array.dtype.kind == "f" else array, field=field)


def _single(array: FloatArray, *, field: str) -> FloatArray:
    """In single precision, which is what tensors have whose numbers have a fraction."""
    with np.errstate(over="ignore"):  # looked for, not warned of
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise InvalidRequest(
            f"{field} holds a number that is too large for a tensor",
            field=field,
            remedy=f"give numbers between -{_LARGEST} and {_LARGEST}",
        )
    return single


def parameters_struct(parameters: Mapping[str, Any]) -> Struct | None:
    """The message for the parameters; None if there are none.

    Raises:
        InvalidRequest: a text in them that is no Unicode, a number beyond those of JSON, or too deep a nesting.
        PayloadTooLarge: more of them than settings can be.
    """
    if not parameters:
        return None
    struct = Struct()
    try:
        check_parameter_size(len(json.dumps(parameters)))
        struct.update(dict(parameters))
    except (ValueError, OverflowError, RecursionError):
        raise InvalidRequest(
            "parameters hold a text that is no Unicode or too large a number, or are nested too deeply",
            field="parameters",
            remedy="send names with plain values",
        ) from None
    return struct


def priority_of(given: str | int | None) -> Priority | None:
    """The priority that a request names, by name or by number.

    Raises:
        InvalidRequest: there is none such.
    """
    if given is None:
        return None
    if isinstance(given, int) and given in set(Priority):
        return Priority(given)
    return Priority.parse(str(given))


# ------------------------------------------------------------------------------------------------ answers


def output_json(output: Mapping[str, Value]) -> dict[str, Any]:
    """The outputs as JSON.

    Raises:
        InferenceFailed: a value that JSON cannot hold.
    """
    return {name: _shown(value, name=name) for name, value in output.items()}


def _shown(value: Value, *, name: str) -> object:
    if value.WhichOneof("kind") == "images":
        return [
            {"base64": base64.b64encode(image.data).decode(), "mediaType": image.media_type}
            for image in value.images.items
        ]
    try:
        items = from_value(value, field=f"output.{name}")
    except ModelMoraError as error:
        raise _not_json(f"the output {name!r} cannot be written as JSON: {error.message}") from error
    return items.tolist() if isinstance(items, np.ndarray) else items


def dump_json(answer: Mapping[str, Any]) -> bytes:
    """The bytes of a body.

    Raises:
        InferenceFailed: it holds NaN or infinity.
    """
    try:
        return json.dumps(answer, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise _not_json("the output holds NaN or infinity, which JSON cannot say") from error


def _not_json(message: str) -> InferenceFailed:
    return InferenceFailed(message, remedy="ask over gRPC, where every tensor can travel; or look at the input")
