"""What the edges hand inwards and get back: a request and its answer, free of any protocol.

Inputs and outputs stay the messages they came as, so that bytes pass through the router without being looked at.
Times named `…_at` and `deadline` are readings of the monotonic clock, in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from modelmora.spec import ModelRef, Priority
from modelmora.v1.types_pb2 import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCall:
    """One request, translated. None = not said by the caller."""

    namespace: str
    ref: ModelRef
    input: Mapping[str, Value]
    parameters: Struct | None
    priority: Priority | None
    timeout_s: float | None
    deadline: float | None  # the end of the caller's own patience
    request_id: str
    received_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call."""

    model_id: str
    version: str
    output: Mapping[str, Value]
    queue_ms: float
    inference_ms: float
    total_ms: float
    request_id: str
