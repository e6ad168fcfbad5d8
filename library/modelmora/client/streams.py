"""A stream of inferences without its I/O: requests become messages, messages become results, parts become answers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import uuid4

from modelmora.client import messages
from modelmora.client.messages import InferenceResult, Input
from modelmora.errors import InternalError, InvalidRequest, ModelMoraError
from modelmora.spec import Priority
from modelmora.v1 import types_pb2
from modelmora.wire.status import from_rpc


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request of a stream; the fields are those of `Client.infer`."""

    model_id: str
    input: Input
    parameters: Mapping[str, Any] | None = None
    priority: Priority | str | None = None
    timeout_seconds: float | None = None
    request_id: str = ""  # tells which answer is whose; of those unanswered, each has its own


# An error names its request in `context.request_id`.
StreamResult: TypeAlias = InferenceResult | ModelMoraError


class Exchange:
    """One stream. What writes it and what reads it may be two threads."""

    def __init__(self, *, endpoint: str) -> None:
        self._endpoint = endpoint
        self._unanswered: set[str] = set()
        self._parts: dict[str, list[bytes]] = {}
        self._refused: dict[str, ModelMoraError] = {}  # by the id of what was sent in place of the request
        self.failure: Exception | None = None  # with which the caller's own iterable ended

    # ------------------------------------------------------------------------------------------------ requests

    def messages(self, requests: Iterable[InferenceRequest]) -> Iterator[types_pb2.InferenceRequest]:
        """The messages to send; an iterable that fails ends them, and is heard of after the answers."""
        try:
            for request in requests:
                yield self.message(request)
        except Exception as error:  # noqa: BLE001 - in the thread of gRPC nobody would hear of it
            self.failure = error

    def message(self, request: InferenceRequest) -> types_pb2.InferenceRequest:
        """The message to send; in place of a request that cannot travel one that the server refuses.

        So its error comes in its turn, also to a caller that waits for it before it asks for more.
        """
        request_id = request.request_id or uuid4().hex
        try:
            if request_id in self._unanswered:
                raise InvalidRequest(
                    "another request of this id is unanswered on the stream",
                    field="requestId",
                    remedy="give each request of a stream an id of its own",
                )
            message = _message(request, request_id)
        except ModelMoraError as error:
            return self._in_place_of(error.located(model_id=str(request.model_id), request_id=request_id))
        self._unanswered.add(request_id)
        return message

    def _in_place_of(self, error: ModelMoraError) -> types_pb2.InferenceRequest:
        """Of no model: whatever the server says of it, the answer is this error."""
        sent_id = uuid4().hex
        self._refused[sent_id] = error
        return types_pb2.InferenceRequest(request_id=sent_id)

    # ------------------------------------------------------------------------------------------------ results

    def result(self, response: types_pb2.InferenceResponse) -> StreamResult | None:
        """What a message from the server says; None: it is a part of an answer, and not the last.

        Raises:
            InternalError: a part is missing.
        """
        if response.HasField("part"):
            whole = self._assembled(response.request_id, response.part)
            return None if whole is None else self.result(whole)
        if refused := self._refused.pop(response.request_id, None):
            return refused
        self._unanswered.discard(response.request_id)
        if response.HasField("error"):
            return from_rpc(response.error, endpoint=self._endpoint).located(request_id=response.request_id)
        try:
            return messages.inference_result(response)
        except ModelMoraError as error:  # an output that this release cannot read
            return error.located(model_id=response.model_id, request_id=response.request_id)

    def _assembled(self, request_id: str, part: types_pb2.Part) -> types_pb2.InferenceResponse | None:
        parts = self._parts.setdefault(request_id, [])
        if part.index != len(parts):
            raise InternalError(
                f"part {len(parts)} of an answer did not come",
                request_id=request_id,
                endpoint=self._endpoint,
                remedy="ask again, and report it",
            )
        parts.append(part.data)
        if not part.last:
            return None
        del self._parts[request_id]
        return types_pb2.InferenceResponse.FromString(b"".join(parts))


def _message(request: InferenceRequest, request_id: str) -> types_pb2.InferenceRequest:
    return messages.inference_request(
        request.model_id,
        request.input,
        parameters=request.parameters,
        priority=request.priority,
        timeout_seconds=request.timeout_seconds,
        request_id=request_id,
    )
