"""What the client sends and gets, without I/O: requests are built and answers are read here, once for both clients."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from modelmora.client.sharing import Loan
from modelmora.errors import InvalidRequest, ModelMoraError, ServerUnavailable
from modelmora.spec import Priority
from modelmora.v1 import management_pb2, registry_pb2, types_pb2
from modelmora.wire import status
from modelmora.wire.values import Array, InputValue, Items, from_values, to_values

# A value alone is named by its type: text, image or tensor.
Input: TypeAlias = InputValue | Mapping[str, InputValue]

M = TypeVar("M")

NAMESPACE_METADATA: Final = "modelmora-namespace"
# Words of the gRPC library, which has no code that tells who went in the middle of a call from who was never there.
_LOST: Final = ("Stream removed", "Socket closed", "reset by peer", "Broken pipe", "GOAWAY", "keepalive")
_FOREVER_S: Final = 10 * 365 * 86_400
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),  # the server states its own bound
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds: waiting (a cold start included), in the engine, in all."""

    queue_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """One answer. Texts are lists of str, images lists of bytes, all else NumPy arrays (read-only)."""

    model_id: str
    version: str
    output: dict[str, Items]
    timing: Timing
    request_id: str

    def array(self, name: str = "embeddings") -> Array:
        """The output of that name, as an array.

        Raises:
            KeyError: there is none of that name.
            TypeError: it is no array.
        """
        items = self.output[name]
        if not isinstance(items, np.ndarray):
            raise TypeError(f"the output {name} of {self.model_id} is no array but a list")
        return items


@dataclass(frozen=True, slots=True)
class Condition:
    """As in Kubernetes; status is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model, as the router sees it."""

    namespace: str
    name: str
    model_id: str
    version: str
    task: str
    source: str
    state: str
    replicas: int
    ready_replicas: int
    desired_replicas: int
    queued: int
    running: int
    last_used_at: datetime | None
    conditions: tuple[Condition, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)  # as in the ModelDeployment's YAML
    status: dict[str, Any] = field(default_factory=dict)

    def condition(self, kind: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == kind), None)


@dataclass(frozen=True, slots=True)
class SystemStatus:
    version: str
    started_at: datetime | None
    ready: bool
    loaded_models: int
    queued: int
    running: int
    models: tuple[Model, ...]


def inference_request(
    model_id: str,
    value: Input,
    *,
    parameters: Mapping[str, Any] | None,
    priority: Priority | str | None,
    timeout_seconds: float | None,
    request_id: str,
    loan: Loan | None = None,
) -> types_pb2.InferenceRequest:
    """The message for one request; what the loan lends is in shared memory.

    Raises:
        InvalidRequest: a value that cannot travel, an unknown priority, a timeout that is not above 0.
    """
    if isinstance(timeout_seconds, float | int) and not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
        raise InvalidRequest(
            f"timeoutSeconds is {timeout_seconds}",
            model_id=model_id,
            field="timeoutSeconds",
            remedy="give a number above 0",
        )
    return made(
        types_pb2.InferenceRequest,
        model_id=model_id,
        input=to_values(named(value), place=loan.place if loan else None),
        parameters=_struct(parameters or {}, model_id),
        priority=types_pb2.Priority.ValueType(_priority(priority)),
        timeout_seconds=timeout_seconds,
        request_id=request_id,
        shared_memory=loan.message if loan else None,
    )


def made(kind: Callable[..., M], **fields: Any) -> M:  # noqa: ANN401 - whatever the message takes
    """The message of that kind.

    Raises:
        InvalidRequest: a field of a wrong type, or a text that is no Unicode.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the request cannot travel: {error}", remedy="give texts that are Unicode") from error


def time_limit(deadline_seconds: float) -> float | None:
    """What gRPC takes as the end of a call; None where it is so far away that there is none.

    Raises:
        InvalidRequest: not a number.
    """
    if math.isnan(deadline_seconds):
        raise InvalidRequest("the deadline is NaN", field="deadline_seconds", remedy="give a number of seconds")
    return deadline_seconds if deadline_seconds < _FOREVER_S else None


def end(deadline_seconds: float) -> float:
    """The end of a call on the machine's monotonic clock.

    Raises:
        InvalidRequest: as `time_limit`.
    """
    return time.monotonic() + (math.inf if time_limit(deadline_seconds) is None else deadline_seconds)


def named(value: Input) -> Mapping[str, InputValue]:
    """The inputs of a request; a value alone is named by its type."""
    match value:
        case Mapping():
            return value
        case np.ndarray():
            return {"tensor": value}
        case bytes():
            return {"image": value}
        case [bytes(), *_]:
            return {"image": value}
        case _:
            return {"text": value}


def _struct(parameters: Mapping[str, Any], model_id: str) -> Struct:
    try:
        return ParseDict(dict(parameters), Struct())
    except (ParseError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"parameters cannot travel: {error}", model_id=model_id, field="parameters", remedy="give JSON values only"
        ) from error


def _priority(priority: Priority | str | None) -> int:
    if priority is None:
        return 0
    return int(priority if isinstance(priority, Priority) else Priority.parse(str(priority)))


def inference_result(response: types_pb2.InferenceResponse, loan: Loan | None = None) -> InferenceResult:
    """What a response says; what is in shared memory is seen where it is."""
    timing = response.timing
    return InferenceResult(
        model_id=response.model_id,
        version=response.version,
        output=from_values(response.output, field="output", regions=loan.region if loan else None),
        timing=Timing(timing.queue_ms, timing.inference_ms, timing.total_ms),
        request_id=response.request_id,
    )


def model(message: registry_pb2.Model) -> Model:
    conditions = tuple(Condition(c.type, c.status, c.reason, c.message) for c in message.conditions)
    return Model(
        namespace=message.namespace,
        name=message.name,
        model_id=message.model_id,
        version=message.version,
        task=message.task,
        source=message.source,
        state=state_name(message.state),
        replicas=message.replicas,
        ready_replicas=message.ready_replicas,
        desired_replicas=message.desired_replicas,
        queued=message.queued,
        running=message.running,
        last_used_at=_datetime(message.last_used_at) if message.HasField("last_used_at") else None,
        conditions=conditions,
        spec=MessageToDict(message.spec),
        status=MessageToDict(message.status),
    )


def system_status(message: management_pb2.SystemStatus) -> SystemStatus:
    return SystemStatus(
        version=message.version,
        started_at=_datetime(message.started_at) if message.HasField("started_at") else None,
        ready=message.ready,
        loaded_models=message.loaded_models,
        queued=message.queued,
        running=message.running,
        models=tuple(model(each) for each in message.models),
    )


def state_name(state: registry_pb2.ModelState.ValueType) -> str:
    """FailedToLoad for MODEL_STATE_FAILED_TO_LOAD: the word of the ModelDeployment's status."""
    words = registry_pb2.ModelState.Name(state).removeprefix("MODEL_STATE_").split("_")
    return "".join(word.capitalize() for word in words)


def _datetime(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def metadata(namespace: str) -> tuple[tuple[str, str], ...]:
    """What every call of a client carries.

    Raises:
        InvalidRequest: a namespace that no header can hold.
    """
    if not (namespace.isascii() and namespace.isprintable()):
        raise InvalidRequest(
            f"{namespace[:80]!a} is not the name of a namespace",
            field="namespace",
            remedy="use lower-case letters, digits and '-'",
        )
    return ((NAMESPACE_METADATA, namespace),) if namespace else ()


def failure(error: grpc.RpcError, *, endpoint: str) -> ModelMoraError:
    """The typed error of a failed call."""
    typed = status.from_rpc_error(error, endpoint=endpoint)
    if not isinstance(typed, ServerUnavailable) or typed.context.remedy:
        return typed
    if any(words in typed.message for words in _LOST):
        problem = f"the connection to {endpoint} was lost during the call"
        remedy = "send the request again; whether this one ran is not known"
    else:
        problem = f"no ModelMora server answers at {endpoint}"
        remedy = "start one with `modelmora serve`, or name its address"
    return ServerUnavailable(f"{problem}: {typed.message}", endpoint=endpoint, remedy=remedy)
