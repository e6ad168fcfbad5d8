"""The one table from errors to gRPC status and HTTP code, and the two forms in which an error travels.

On gRPC an error is a google.rpc.Status with ErrorInfo (`reason` is our code, `metadata` the context), RequestInfo,
RetryInfo and BadRequest. On HTTP it is problem+json (RFC 9457). Both ways lose nothing: the code names the leaf.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status as RpcStatus
from grpc_status import rpc_status

from modelmora import errors
from modelmora.errors import ErrorContext, ModelMoraError

DOMAIN: Final = "modelmora.io"
PROBLEM_TYPE: Final = "https://modelmora.io/errors/"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Codes:
    grpc: grpc.StatusCode
    http: int
    title: str


_S = grpc.StatusCode

TABLE: Final[Mapping[type[ModelMoraError], Codes]] = {
    errors.MalformedRequest: Codes(_S.INVALID_ARGUMENT, 400, "The request cannot be read"),
    errors.InvalidRequest: Codes(_S.INVALID_ARGUMENT, 422, "A field of the request is wrong"),
    errors.PayloadTooLarge: Codes(_S.RESOURCE_EXHAUSTED, 413, "The request is too large"),
    errors.ModelNotFound: Codes(_S.NOT_FOUND, 404, "No such model"),
    errors.ModelBusy: Codes(_S.FAILED_PRECONDITION, 409, "The model is in use"),
    errors.DeadlineExceeded: Codes(_S.DEADLINE_EXCEEDED, 504, "The request's time is over"),
    errors.RequestCancelled: Codes(_S.CANCELLED, 499, "The caller left"),
    errors.QueueFull: Codes(_S.RESOURCE_EXHAUSTED, 429, "Too many requests wait for the model"),
    errors.RateLimited: Codes(_S.RESOURCE_EXHAUSTED, 429, "More requests than the model admits"),
    errors.MemoryFull: Codes(_S.RESOURCE_EXHAUSTED, 429, "The server holds too many bytes of requests"),
    errors.ColdStartTimeout: Codes(_S.UNAVAILABLE, 503, "The model did not wake in time"),
    errors.ModelUnhealthy: Codes(_S.UNAVAILABLE, 503, "The model cannot be loaded"),
    errors.ModelSuspended: Codes(_S.UNAVAILABLE, 503, "The model is suspended"),
    errors.WorkerUnavailable: Codes(_S.UNAVAILABLE, 503, "The worker of the model is not available"),
    errors.InsufficientMemory: Codes(_S.RESOURCE_EXHAUSTED, 503, "The memory does not suffice"),
    errors.QuotaExceeded: Codes(_S.RESOURCE_EXHAUSTED, 429, "More shared memory than a session may have"),
    errors.SharedMemoryUnavailable: Codes(_S.FAILED_PRECONDITION, 503, "No shared memory here"),
    errors.PeerGone: Codes(_S.UNAVAILABLE, 503, "The other end of the session is gone"),
    errors.ServerUnavailable: Codes(_S.UNAVAILABLE, 503, "The server is not available"),
    errors.InferenceFailed: Codes(_S.INTERNAL, 500, "The model failed on this input"),
    errors.FeatureUnavailable: Codes(_S.UNIMPLEMENTED, 501, "Not in this release"),
    errors.InternalError: Codes(_S.INTERNAL, 500, "An error of the server"),
    errors.InvalidSource: Codes(_S.FAILED_PRECONDITION, 503, "The source of the model cannot be used"),
    errors.SourceNotFound: Codes(_S.FAILED_PRECONDITION, 503, "The source of the model does not exist"),
    errors.FetchFailed: Codes(_S.UNAVAILABLE, 503, "The model could not be fetched"),
    errors.ChecksumMismatch: Codes(_S.DATA_LOSS, 503, "A file of the model is not the expected one"),
    errors.UnsafeWeights: Codes(_S.PERMISSION_DENIED, 503, "The model needs what is not allowed"),
    errors.InvalidEngine: Codes(_S.FAILED_PRECONDITION, 503, "The engine cannot be used"),
    errors.MissingDependency: Codes(_S.FAILED_PRECONDITION, 503, "A package is missing"),
    errors.LoadFailed: Codes(_S.FAILED_PRECONDITION, 503, "The model could not be loaded"),
    errors.HealthInferenceFailed: Codes(_S.FAILED_PRECONDITION, 503, "The model failed its test inference"),
    errors.InvalidManifest: Codes(_S.INVALID_ARGUMENT, 422, "The manifest cannot be used"),
    errors.InvalidSettings: Codes(_S.INVALID_ARGUMENT, 422, "A setting is wrong"),
    errors.AddressInUse: Codes(_S.ALREADY_EXISTS, 409, "The address is in use"),
    errors.AlreadyRunning: Codes(_S.ALREADY_EXISTS, 409, "Another server uses this state"),
}

_BY_CODE: Final = {errors.code_of(kind): kind for kind in TABLE}

# What a bare status means, when a proxy or the gRPC library itself made it and nothing says which leaf it was.
_BY_GRPC: Final[Mapping[grpc.StatusCode, type[ModelMoraError]]] = {
    _S.INVALID_ARGUMENT: errors.InvalidRequest,
    _S.NOT_FOUND: errors.ModelNotFound,
    _S.RESOURCE_EXHAUSTED: errors.PayloadTooLarge,
    _S.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    _S.CANCELLED: errors.RequestCancelled,
    _S.UNAVAILABLE: errors.ServerUnavailable,
    _S.UNIMPLEMENTED: errors.FeatureUnavailable,
}
_BY_HTTP: Final[Mapping[int, type[ModelMoraError]]] = {
    400: errors.MalformedRequest,
    404: errors.ModelNotFound,
    413: errors.PayloadTooLarge,
    422: errors.InvalidRequest,
    429: errors.QueueFull,
    501: errors.FeatureUnavailable,
    502: errors.ServerUnavailable,
    503: errors.ServerUnavailable,
    504: errors.DeadlineExceeded,
}
_OTHERS: Final = {"retry_after_s", "request_id", "needed_bytes"}
_TEXTS: Final = tuple(f.name for f in fields(ErrorContext) if f.name not in _OTHERS)


_NEEDED: Final = "neededBytes"
_NUMBER: Final = re.compile("[0-9]{1,18}")

# A message travels three times: percent-encoded, in the status, and beside its field.
_LONG_BYTES: Final = 1024
_SHORT_BYTES: Final = 256


def codes(error: ModelMoraError) -> Codes:
    """The statuses of an error."""
    return TABLE[type(error)]


# ------------------------------------------------------------------------------------------------ gRPC


def to_rpc(error: ModelMoraError) -> RpcStatus:
    """The error as a google.rpc.Status."""
    context = error.context
    texts = {_camel(name): getattr(context, name) for name in _TEXTS if getattr(context, name)}
    if context.needed_bytes is not None:
        texts[_NEEDED] = str(context.needed_bytes)
    status = RpcStatus(code=codes(error).grpc.value[0], message=error.message)
    _add(status, error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=texts))
    if context.request_id:
        _add(status, error_details_pb2.RequestInfo(request_id=context.request_id))
    if context.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(context.retry_after_s * 1e9))
        _add(status, retry)
    if context.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=context.field, description=error.message)
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def abbreviated(error: ModelMoraError) -> ModelMoraError:
    """The error cut to what fits into the trailers of a call: of more than 8 KiB, clients get no error but garbage."""
    texts = {name: _cut(getattr(error.context, name), _SHORT_BYTES) for name in _TEXTS}
    context: dict[str, Any] = asdict(error.context) | texts
    return type(error)(_cut(error.message, _LONG_BYTES), **context)


def _cut(text: str, size: int) -> str:
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= size else encoded[:size].decode(errors="ignore") + "…"


def from_rpc(status: RpcStatus, *, endpoint: str = "") -> ModelMoraError:
    """The error that a google.rpc.Status carries; of a stranger's status, the nearest leaf."""
    kind = _BY_GRPC.get(_grpc_code(status.code), errors.InternalError)
    context: dict[str, str | float | None] = {}
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        request, retry = error_details_pb2.RequestInfo(), error_details_pb2.RetryInfo()
        if _unpacked(detail, info) and info.domain == DOMAIN:
            kind = _BY_CODE.get(info.reason, kind)
            context |= {_snake(name): text for name, text in info.metadata.items() if _snake(name) in _TEXTS}
            needed = info.metadata.get(_NEEDED, "")
            context["needed_bytes"] = int(needed) if _NUMBER.fullmatch(needed) else None
        elif _unpacked(detail, request):
            context["request_id"] = request.request_id
        elif _unpacked(detail, retry):
            context["retry_after_s"] = retry.retry_delay.ToNanoseconds() / 1e9
    return kind(status.message, **context).located(endpoint=endpoint)  # type: ignore[arg-type]  # names of the fields


def from_rpc_error(error: grpc.RpcError, *, endpoint: str = "") -> ModelMoraError:
    """The error that a failed gRPC call carries."""
    call = cast("grpc.Call", error)
    status = rpc_status.from_call(call)
    if status is None:
        status = RpcStatus(code=call.code().value[0], message=call.details() or "")
    return from_rpc(status, endpoint=endpoint)


def _add(
    status: RpcStatus,
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.RequestInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.BadRequest,
) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _unpacked(detail: AnyMessage, message: Message) -> bool:
    """Whether the detail is such a message, and is now in it; bytes that cannot be read are none."""
    try:
        return detail.Unpack(message)
    except DecodeError:
        return False


def _grpc_code(number: int) -> grpc.StatusCode:
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


# ------------------------------------------------------------------------------------------------ HTTP


def to_problem(error: ModelMoraError) -> dict[str, str | int | float]:
    """The error as the body of a problem+json answer; empty fields are left out."""
    context = error.context
    known: dict[str, str | int | float | None] = {
        "type": PROBLEM_TYPE + error.code.lower().replace("_", "-"),
        "title": codes(error).title,
        "status": codes(error).http,
        "detail": error.message,
        "code": error.code,
        **{_camel(name): getattr(context, name) for name in _TEXTS},
        "requestId": context.request_id,
        "retryAfterSeconds": context.retry_after_s,
        _NEEDED: context.needed_bytes,
    }
    return {name: value for name, value in known.items() if value not in {None, ""}}


def from_problem(body: Mapping[str, object], *, http_status: int) -> ModelMoraError:
    """The error that a problem+json body carries; of a stranger's body, the nearest leaf."""
    kind = _BY_CODE.get(str(body.get("code")), _BY_HTTP.get(http_status, errors.InternalError))
    context: dict[str, str | float | None] = {name: str(body.get(_camel(name), "")) for name in (*_TEXTS, "request_id")}
    retry = body.get("retryAfterSeconds")
    context["retry_after_s"] = float(retry) if isinstance(retry, int | float) else None
    needed = body.get(_NEEDED)
    context["needed_bytes"] = needed if isinstance(needed, int) else None
    message = str(body.get("detail") or body.get("title") or f"HTTP status {http_status}")
    return kind(message, **context)  # type: ignore[arg-type]  # names are those of the fields


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()
