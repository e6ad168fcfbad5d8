"""The client for threads. One channel, used by any number of them."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from modelmora.client import calls, messages
from modelmora.client.calls import Call, Stubs
from modelmora.client.messages import InferenceResult, Input, Model, SystemStatus
from modelmora.client.settings import default_target
from modelmora.client.sharing import Sharing, lent, unshared
from modelmora.client.streams import Exchange, InferenceRequest, StreamResult
from modelmora.errors import RequestError
from modelmora.spec import Priority

R = TypeVar("R")


class Client:
    """Talks to one ModelMora server.

    Args:
        target: where its gRPC port is, "host:port"; or "unix:/path", the socket of a worker on this machine, which
            answers for its one model and takes large arrays in shared memory. Default: what MODELMORA_SOCKET names,
            else localhost:9000.
        namespace: whose models; empty = the server's default.
        deadline_seconds: the end of every call, a cold start included; `infer` can set its own.

    Every method raises a leaf of `modelmora.errors`: ServerUnavailable if nobody answers, DeadlineExceeded when it
    takes too long.
    """

    def __init__(self, target: str = "", *, namespace: str = "", deadline_seconds: float = 300) -> None:
        self.target = target or default_target()
        self._metadata = messages.metadata(namespace)
        self._deadline_s = deadline_seconds
        self._sharing = Sharing.at(self.target)
        self._channel = grpc.insecure_channel(self.target, options=messages.CHANNEL_OPTIONS)
        self._stubs = Stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._sharing:
            self._sharing.drop()
        self._channel.close()

    def empty(
        self, shape: Sequence[int] | int, dtype: npt.DTypeLike = np.float32, *, order: str = "C"
    ) -> "npt.NDArray[Any]":
        """An array to be filled and then given to `infer`, which sends it without a copy: it is in shared memory.

        Where there is none, or not so much, it is an ordinary array, and the same calls send it in another way. Its
        elements are what was there before. Do not write to it while a call with it runs.

        Raises:
            InvalidRequest: a dtype that cannot travel.
        """
        if self._sharing is None:
            return unshared(shape, dtype, order)
        return self._sharing.empty(shape, dtype, order)

    def infer(
        self,
        model_id: str,
        input: Input,  # noqa: A002 - the word of the protocol
        *,
        parameters: Mapping[str, Any] | None = None,
        priority: Priority | str | None = None,
        timeout_seconds: float | None = None,
        deadline_seconds: float | None = None,
        request_id: str = "",
    ) -> InferenceResult:
        """One request, one answer; waits while the model wakes.

        Args:
            model_id: "id", or "id@version".
            input: a text or texts, an encoded image or images, a NumPy array, or a mapping of names to such.
            parameters: task-specific settings of this call.
            priority: CRITICAL, HIGH, NORMAL or LOW; the deployment's default if None.
            timeout_seconds: how long it may take once the model can be dispatched to; the deployment's default if None.
            deadline_seconds: the end of the call in any case.
            request_id: your name for it in the logs.
        """
        ask = partial(
            calls.infer,
            model_id,
            input,
            parameters=parameters,
            priority=priority,
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )
        if self._sharing is None:
            return self._run(ask(), deadline_seconds)
        ends_at, is_first = messages.end(self._limit(deadline_seconds)), True
        while True:
            passage = self._sharing.passage(model_id, messages.named(input).values())
            try:
                with lent(passage) as loan:
                    result = self._run(ask(loan=loan), ends_at - time.monotonic())
            except RequestError as error:
                if not (is_first and self._sharing.mended(model_id, error)):
                    raise
                is_first = False
            else:
                self._sharing.answered(model_id, result.output.values())
                return result

    def infer_stream(
        self, requests: Iterable[InferenceRequest], *, deadline_seconds: float = math.inf
    ) -> Iterator[StreamResult]:
        """Many requests on one stream; yields each answer, or the error of a request, in the order of their ends.

        The requests are taken, in another thread, as fast as the server takes them, and the server takes none for as
        long as too many of its answers are not taken here. Closing the iterator withdraws what is unanswered.

        Args:
            requests: of any number and of any models. If the iterable raises, so does this, after the answers.
            deadline_seconds: the end of the whole stream; each request can have a timeout of its own.

        Raises:
            ModelMoraError: the stream itself broke; what is unanswered then is not known.
        """
        exchange = Exchange(endpoint=self.target)
        call = self._stubs.inference.InferStream(
            exchange.messages(requests), timeout=messages.time_limit(deadline_seconds), metadata=self._metadata
        )
        try:
            for response in call:
                if result := exchange.result(response):
                    yield result
        except grpc.RpcError as error:
            raise messages.failure(error, endpoint=self.target) from None
        finally:
            call.cancel()
        if exchange.failure:
            raise exchange.failure

    def list_models(self, *, task: str = "") -> list[Model]:
        """All models, or those of one task."""
        page = self._run(calls.list_models(task, ""))
        models = page.models
        while page.next_page:
            page = self._run(calls.list_models(task, page.next_page))
            models += page.models
        return models

    def get_model(self, model_id: str) -> Model:
        """One model with its spec and status."""
        return self._run(calls.get_model(model_id))

    def load(self, model_id: str) -> Model:
        """Wakes a model; returns once it can serve."""
        return self._run(calls.load(model_id))

    def unload(self, model_id: str) -> Model:
        """Lets a model go to zero now; returns once its workers have ended."""
        return self._run(calls.unload(model_id))

    def status(self) -> SystemStatus:
        """The server and its models."""
        return self._run(calls.status())

    def healthy(self) -> bool:
        """Whether the server takes requests now."""
        return self._run(calls.healthy())

    def _limit(self, deadline_seconds: float | None) -> float:
        return self._deadline_s if deadline_seconds is None else deadline_seconds

    def _run(self, call: Call[R], deadline_seconds: float | None = None) -> R:
        timeout = messages.time_limit(self._limit(deadline_seconds))
        try:
            answer = call.method(self._stubs)(call.request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise messages.failure(error, endpoint=self.target) from None
        return call.read(answer)
