"""What the spans of a request are: the request, its wait in the queue, and its time in the engine. No I/O.

They are made when a request has ended, from what was measured in any case.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from modelmora.errors import ModelMoraError
from modelmora_router.calls import Answer, InferenceCall


class Span(NamedTuple):
    """One. Times are Unix nanoseconds."""

    name: str
    begin: int
    end: int
    attributes: Mapping[str, str | int]
    error: str = ""


class SpanSink(Protocol):
    """Where the spans of a router go."""

    def answered(self, call: InferenceCall, answer: Answer) -> None:
        """A request got its answer, just now."""

    def failed(self, call: InferenceCall, error: ModelMoraError) -> None:
        """A request got none, just now."""


def spans_of(call: InferenceCall, answer: Answer, *, now: int) -> tuple[Span, ...]:
    """The request first, what it consisted of after it."""
    begin = now - round(answer.total_ms * 1e6)
    engine = max(begin, now - round(answer.inference_ms * 1e6))  # what it took is the worker's word
    of_request = _attributes(call) | {"modelmora.version": answer.version, "modelmora.deployment": answer.deployment}
    return (
        Span("request", begin, now, of_request),
        Span("queue", begin, begin + round(answer.queue_ms * 1e6), {}),
        Span("inference", engine, now, {"modelmora.batch_size": answer.batch_size}),
    )


def failed_span(call: InferenceCall, error: ModelMoraError, *, waited_s: float, now: int) -> Span:
    """A request that got no answer."""
    attributes = _attributes(call) | {"error.type": error.code}
    return Span("request", now - round(waited_s * 1e9), now, attributes, error.message)


def _attributes(call: InferenceCall) -> dict[str, str | int]:
    return {
        "modelmora.namespace": call.namespace,
        "modelmora.model": call.ref.model_id,
        "modelmora.request_id": call.request_id,
        "modelmora.priority": call.priority.name if call.priority else "",  # the model's own
    }
