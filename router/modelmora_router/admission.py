"""Whether a request is one: its own fields, before anything is asked about its model. Values in, errors out, no I/O.

Only what is cheap to see is looked at here; whether a tensor's bytes fit its shape, the worker finds out.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as StructValue

from modelmora.errors import InvalidRequest, MalformedRequest, PayloadTooLarge
from modelmora.v1.types_pb2 import Value
from modelmora.wire.values import elsewhere

MAX_INPUTS: Final = 64
MAX_PARAMETER_BYTES: Final = 64 * 1024  # they are settings; each costs time to read, here and in the worker
MAX_PARAMETER_DEPTH: Final = 16

_MAX_RANK: Final = 32  # of a tensor: NumPy's limit was this for long
_SEEN_THROUGH_BYTES: Final = 256 * 1024  # smaller messages do no harm, whatever they hold

_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")  # names of clients too
_INPUT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    max_text_chars: int
    max_items: int


def check_input(values: Mapping[str, Value], limits: Limits, *, size_bytes: int) -> None:
    """Refuses an input without values, a value without items, and too much of either.

    `size_bytes`: of the whole request. No text in it has more characters, so that those of small ones are not counted.

    Raises:
        InvalidRequest: something is missing.
        PayloadTooLarge: a text, or the number of texts or images, is over its limit.
    """
    if not values:
        raise InvalidRequest(
            "the request has no input", field="input", remedy='give at least one input, for example {"text": "hello"}'
        )
    if len(values) > MAX_INPUTS:
        raise PayloadTooLarge(
            f"the request has {len(values)} inputs; at most {MAX_INPUTS} are allowed",
            field="input",
            remedy="give many texts or images as one list",
        )
    for name, value in values.items():
        if not _INPUT_NAME.fullmatch(name):
            raise InvalidRequest(
                f"an input has the name {name[:80]!r}",
                field="input",
                remedy="use up to 64 letters, digits, '_', '-' and '.', beginning with a letter or '_'",
            )
        _check_value(value, field=f"input.{name}", limits=limits)
        if size_bytes > limits.max_text_chars and value.WhichOneof("kind") == "text":
            _check_texts(value, field=f"input.{name}", limits=limits)


def check_written_once(message: Message, *, size_bytes: int) -> None:
    """Refuses a message whose bytes hold much more than is left of it when it is read: the worker reads them again.

    Raises:
        MalformedRequest: most of its `size_bytes` are names that come again, or of no field.
    """
    if size_bytes > _SEEN_THROUGH_BYTES and 2 * message.ByteSize() < size_bytes:
        raise MalformedRequest(
            f"of {size_bytes} bytes most are overwritten by later ones, or of no field that is known",
            remedy="write each input and each parameter once",
        )


def _check_value(value: Value, *, field: str, limits: Limits) -> None:
    match value.WhichOneof("kind"):
        case "tensor":
            _check_rank(len(value.tensor.shape), field=field)
            if value.tensor.HasField("region"):
                raise elsewhere(field)
        case "text":
            _check_count(len(value.text.items), field=field, limits=limits)
        case "images":
            _check_count(len(value.images.items), field=field, limits=limits)
        case None:
            raise InvalidRequest(f"{field} is empty", field=field, remedy="set text, tensor or images")


def _check_rank(rank: int, *, field: str) -> None:
    if rank > _MAX_RANK:
        raise InvalidRequest(
            f"{field} has {rank} dimensions; at most {_MAX_RANK} are possible", field=field, remedy="reshape it"
        )


def _check_count(count: int, *, field: str, limits: Limits) -> None:
    if not count:
        raise InvalidRequest(f"{field} is an empty list", field=field, remedy="give at least one item")
    if count > limits.max_items:
        raise PayloadTooLarge(
            f"{field} has {count} items; at most {limits.max_items} are allowed",
            field=field,
            remedy="send several requests, or raise the setting max_items",
        )


def _check_texts(value: Value, *, field: str, limits: Limits) -> None:
    longest = max(len(text) for text in value.text.items)
    if longest > limits.max_text_chars:
        raise PayloadTooLarge(
            f"a text of {field} has {longest} characters; at most {limits.max_text_chars} are allowed",
            field=field,
            remedy="send shorter texts, or raise the setting max_text_chars",
        )


def check_parameters(parameters: Struct | None) -> None:
    """Refuses what a worker could not read: there it would end the stream for all others.

    Raises:
        InvalidRequest: deeper than MAX_PARAMETER_DEPTH, or NaN or infinity, which JSON cannot say.
        PayloadTooLarge: more than MAX_PARAMETER_BYTES.
    """
    if parameters is None:
        return
    check_parameter_size(parameters.ByteSize())
    if problem := _first_problem(parameters.fields.values(), MAX_PARAMETER_DEPTH):
        raise InvalidRequest(problem, field="parameters", remedy="send names with plain values")


def check_parameter_size(size: int) -> None:
    """Refuses more than settings can be.

    Raises:
        PayloadTooLarge: more than MAX_PARAMETER_BYTES.
    """
    if size > MAX_PARAMETER_BYTES:
        raise PayloadTooLarge(
            f"parameters have {size} bytes; at most {MAX_PARAMETER_BYTES} are allowed",
            field="parameters",
            remedy="send data as an input; parameters are settings",
        )


def _first_problem(values: Iterable[StructValue], depth: int) -> str | None:
    if not depth:
        return f"parameters are nested more than {MAX_PARAMETER_DEPTH} deep"
    return next((problem for value in values if (problem := _problem(value, depth - 1))), None)


def _problem(value: StructValue, depth: int) -> str | None:
    match value.WhichOneof("kind"):
        case "number_value" if not math.isfinite(value.number_value):
            return "parameters hold NaN or infinity"
        case "struct_value":
            return _first_problem(value.struct_value.fields.values(), depth)
        case "list_value":
            return _first_problem(value.list_value.values, depth)
    return None


def check_timeout(timeout_s: float | None) -> None:
    """Refuses a timeout that is no time span.

    Raises:
        InvalidRequest: zero, negative, or not a number.
    """
    if timeout_s is not None and not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise InvalidRequest(
            f"timeoutSeconds is {timeout_s:g}",
            field="timeoutSeconds",
            remedy="give a number of seconds above 0, or leave it out for the model's own timeout",
        )


def request_id(given: str) -> str:
    """The caller's name for the request, or a new one.

    Raises:
        InvalidRequest: a name that would not fit on one line of a log.
    """
    if not given:
        return f"{random.getrandbits(128):032x}"
    if not is_request_id(given):
        raise InvalidRequest(
            "the request id is too long or has characters that are not visible ASCII",
            field="requestId",
            remedy="use 1 to 128 visible ASCII characters without spaces, or leave it out",
        )
    return given


def is_request_id(given: str) -> bool:
    """Whether it would fit on one line of a log."""
    return _REQUEST_ID.fullmatch(given) is not None


def client(given: str, address: str) -> str:
    """Whose requests are counted together: the name that the caller gives itself, else where it calls from.

    Raises:
        InvalidRequest: a name that would not fit on one line of a log.
    """
    if given and not _REQUEST_ID.fullmatch(given):
        raise InvalidRequest(
            "the name of the client is too long or has characters that are not visible ASCII",
            field="modelmora-client",
            remedy="use 1 to 128 visible ASCII characters without spaces, or leave it out",
        )
    return given or address


def idempotent(given: str) -> bool:
    """Whether the request may be sent to another worker when the first was lost with it. Empty: it may.

    Raises:
        InvalidRequest: neither true nor false.
    """
    word = given.lower()
    if word not in {"", "true", "false"}:
        raise InvalidRequest(
            f"modelmora-idempotent is {given[:80]!a}", field="modelmora-idempotent", remedy="use true or false"
        )
    return word != "false"


def namespace(given: str, default: str) -> str:
    """The namespace that a request is about.

    Raises:
        InvalidRequest: no name of a namespace.
    """
    if not given:
        return default
    if not _NAMESPACE.fullmatch(given):
        raise InvalidRequest(
            f"{given[:80]!r} is not the name of a namespace",
            field="modelmora-namespace",
            remedy="use lower-case letters, digits and '-', at most 63 characters",
        )
    return given
