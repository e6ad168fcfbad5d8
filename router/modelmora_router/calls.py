"""What the edges hand inwards and get back: a request and its answer, free of any protocol.

Inputs and outputs stay the messages they came as, so that bytes pass through the router without being looked at.
Times named `…_at` and `deadline` are readings of the monotonic clock, in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    size_bytes: int = 0  # on the wire
    client: str = ""  # whose requests are counted together, for rate limits
    headers: Mapping[str, str] = field(default_factory=dict)  # or metadata; names in lower case
    traceparent: str = ""  # of the caller or, without one, of the router; W3C trace context
    idempotent: bool = True  # may be sent to another worker when the first was lost with it


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
    deployment: str = ""  # which of several that answer for the model
    batch_size: int = 1
