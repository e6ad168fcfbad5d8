"""What travels between router and worker, for tests: entries with their request inside, results with their output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelmora.spec import Priority
from modelmora.v1 import worker_pb2
from modelmora.v1.types_pb2 import InferenceRequest, InferenceResponse, Value
from modelmora.wire.values import from_values, to_values


def entry_of(entry_id: int, input: Mapping[str, Any], **parameters: Any) -> worker_pb2.BatchEntry:  # noqa: A002 - its name
    """An entry that asks for this."""
    request = InferenceRequest(input=to_values(input))
    if parameters:
        request.parameters.update(parameters)
    return worker_pb2.BatchEntry(
        entry_id=entry_id,
        request=request.SerializeToString(),
        request_id=f"r-{entry_id}",
        priority=int(Priority.NORMAL),  # type: ignore[arg-type]  # the numbers are those of the protocol
    )


def empty_entry(entry_id: int) -> worker_pb2.BatchEntry:
    """An entry with an input of no kind."""
    request = InferenceRequest(input={"text": Value()})
    return worker_pb2.BatchEntry(entry_id=entry_id, request=request.SerializeToString())


@dataclass(frozen=True, slots=True)
class Item:
    """What a lane would send."""

    entry_id: int
    text: str = "hello"
    size_bytes: int = 100

    def add_to(self, batch: worker_pb2.Batch) -> None:
        batch.entries.append(entry_of(self.entry_id, {"text": self.text}))


def request_of(entry: worker_pb2.BatchEntry) -> InferenceRequest:
    """What the entry asks for."""
    return InferenceRequest.FromString(entry.request)


def texts_of(entry: worker_pb2.BatchEntry) -> list[str]:
    """Its texts."""
    return list(request_of(entry).input["text"].text.items)


def output_of(**outputs: Any) -> bytes:
    """As a worker writes it."""
    return InferenceResponse(output=to_values(outputs)).SerializeToString()


def values_of(result: worker_pb2.EntryResult) -> Mapping[str, Value]:
    """The output of a result, as messages."""
    assert result.HasField("output"), result
    return InferenceResponse.FromString(result.output).output


def outputs_of(result: worker_pb2.EntryResult) -> dict[str, Any]:
    """The output of a result."""
    return dict(from_values(values_of(result)))
