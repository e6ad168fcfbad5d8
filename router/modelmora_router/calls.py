"""What the edges hand inwards and get back: a request and its answer, free of any protocol.

Inputs and outputs stay the bytes they came as: they pass through the router without being written anew.
Times named `…_at` and `deadline` are readings of the monotonic clock, in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from modelmora.errors import MalformedRequest
from modelmora.spec import ModelRef, Priority
from modelmora.v1.types_pb2 import InferenceRequest, InferenceResponse


class Payload:
    """An InferenceRequest as it came. Read once for the checks at the door, and from then on held as bytes alone."""

    __slots__ = ("_message", "data")

    def __init__(self, data: bytes, message: InferenceRequest | None = None) -> None:
        self.data = data
        self._message = message

    @classmethod
    def read(cls, data: bytes) -> "Payload":
        """Never fails: what cannot be read says so when it is asked for."""
        try:
            return cls(data, InferenceRequest.FromString(data))
        except DecodeError:
            return cls(data)

    @classmethod
    def of(cls, message: InferenceRequest) -> "Payload":
        """Of a message that came in other words."""
        return cls(message.SerializeToString(), message)

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def request_id(self) -> str:
        """The caller's; empty also where nothing can be read."""
        return self._message.request_id if self._message else ""

    def message(self) -> InferenceRequest:
        """As it can be looked into.

        Raises:
            MalformedRequest: the bytes are no such message.
        """
        if self._message is not None:
            return self._message
        try:
            return InferenceRequest.FromString(self.data)
        except DecodeError as error:
            raise unreadable() from error

    def checked(self) -> None:
        """It has been looked into: the bytes alone stay."""
        self._message = None


_NOT_OF_A_WORKER: Final = ("timing", "error", "part")  # the router's own words prevail only where it has some


def is_output(data: bytes) -> bool:
    """Whether a caller will be able to read what a worker wrote, as an answer of its own. Costs a copy of it."""
    try:
        response = InferenceResponse.FromString(data)
    except DecodeError:
        return False
    return not any(response.HasField(name) for name in _NOT_OF_A_WORKER)


def unreadable() -> MalformedRequest:
    """The error of bytes that are no message of the method."""
    return MalformedRequest(
        "the bytes are no such message", remedy="send a message of modelmora.v1; reflection tells what it is"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCall:
    """One request, translated. None = not said by the caller."""

    namespace: str
    ref: ModelRef
    payload: Payload
    priority: Priority | None
    timeout_s: float | None
    deadline: float | None  # the end of the caller's own patience
    request_id: str
    received_at: float
    client: str = ""  # whose requests are counted together, for rate limits
    headers: Mapping[str, str] = field(default_factory=dict)  # or metadata; names in lower case
    traceparent: str = ""  # of the caller or, without one, of the router; W3C trace context
    idempotent: bool = True  # may be sent to another worker when the first was lost with it

    @property
    def size_bytes(self) -> int:
        """Of what is held for it, and sent on."""
        return self.payload.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call."""

    model_id: str
    version: str
    output: bytes  # an InferenceResponse with nothing but its output
    queue_ms: float
    inference_ms: float
    total_ms: float
    request_id: str
    deployment: str = ""  # which of several that answer for the model
    batch_size: int = 1
