"""The messages that carry answers to a router, as bytes.

A message that is put into another is written out and read again with all its tensors, and so is one that is asked for
its size: so outputs are bytes before they are put anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelmora.errors import InferenceFailed, InternalError, InvalidRequest, ModelMoraError, PayloadTooLarge
from modelmora.v1 import worker_pb2
from modelmora.v1.types_pb2 import InferenceResponse
from modelmora.wire import values
from modelmora.wire.status import to_rpc
from modelmora_worker.engines import Outputs
from modelmora_worker.entry import Done

FRAME_BYTES: Final = 1024  # of a message around its results


@dataclass(frozen=True, slots=True)
class Writer:
    """Of one model's answers."""

    model_id: str
    max_message_bytes: int

    def write(self, done: Sequence[Done]) -> list[bytes]:
        """One message for all of them, or one for each where together they would be too large."""
        response = worker_pb2.ProcessResponse()
        for each in done:
            self._put(each, response.results.add())
        message = response.SerializeToString()
        if len(message) <= self.max_message_bytes - FRAME_BYTES:
            return [message]
        return [self._alone(result) for result in response.results]

    def _alone(self, result: worker_pb2.EntryResult) -> bytes:
        message = worker_pb2.ProcessResponse(results=[result]).SerializeToString()
        if len(message) <= self.max_message_bytes:
            return message
        error = too_large(self.model_id, len(message), self.max_message_bytes)
        refused = worker_pb2.EntryResult(entry_id=result.entry_id, error=to_rpc(error))
        return worker_pb2.ProcessResponse(results=[refused]).SerializeToString()

    def _put(self, done: Done, result: worker_pb2.EntryResult) -> None:
        result.entry_id, result.inference_ms = done.sent_id, done.inference_ms
        result.batch_size, result.batch_index = done.batch_size, done.batch_index
        try:
            if isinstance(done.answer, ModelMoraError):
                result.error.CopyFrom(to_rpc(done.answer))
            else:
                result.output = written(done.answer, model_id=self.model_id)
        except InferenceFailed as error:
            result.error.CopyFrom(to_rpc(error))  # in place of what was written of the output
        except UnicodeError:
            result.error.CopyFrom(to_rpc(self._unwritable()))

    def _unwritable(self) -> InternalError:
        return InternalError(
            f"the engine of model {self.model_id} answered with an error whose text is no Unicode",
            model_id=self.model_id,
        )


def too_large(model_id: str, size_bytes: int, max_bytes: int, *, needed_bytes: int | None = None) -> PayloadTooLarge:
    """An answer that no message holds; `needed_bytes`: as much room in shared memory would."""
    elsewhere = "" if needed_bytes is None else ", or give the answer room in shared memory, as the client SDK does"
    return PayloadTooLarge(
        f"the answer of model {model_id} has {size_bytes} bytes; a message may have {max_bytes}",
        model_id=model_id,
        remedy=f"ask for fewer inputs in one request{elsewhere}",
        needed_bytes=needed_bytes,
    )


def written(answer: Outputs, *, model_id: str, place: values.Place | None = None) -> bytes:
    """An engine's outputs, as an InferenceResponse with nothing else; what `place` takes of them, elsewhere.

    Raises:
        InferenceFailed: the engine answered with something that cannot travel.
    """
    response = InferenceResponse()
    try:
        for name, value in answer.items():
            values.put_value(value, response.output[name], field=f"output.{name}", place=place)
    except Exception as error:  # a mapping of the engine's own may raise anything
        raise InferenceFailed(
            f"the engine of model {model_id} answered with something that cannot travel: {_problem(answer, error)}",
            model_id=model_id,
            remedy="let infer() return a mapping of names to texts, bytes or arrays for each entry",
        ) from error
    return response.SerializeToString()


def _problem(answer: object, error: Exception) -> str:
    if isinstance(error, InvalidRequest):
        return error.message
    return f"it is of type {type(answer).__name__}"
