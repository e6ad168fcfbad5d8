"""The client for asyncio; create it inside the event loop that uses it."""

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
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


class AsyncClient:
    """`modelmora.Client` for asyncio: the same methods, arguments and errors. Cancelling a call cancels its request."""

    def __init__(self, target: str = "", *, namespace: str = "", deadline_seconds: float = 300) -> None:
        self.target = target or default_target()
        self._metadata = messages.metadata(namespace)
        self._deadline_s = deadline_seconds
        self._sharing = Sharing.at(self.target)
        self._channel = grpc.aio.insecure_channel(self.target, options=messages.CHANNEL_OPTIONS)
        self._stubs = Stubs(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._sharing:
            await asyncio.to_thread(self._sharing.drop)
        await self._channel.close()

    async def empty(
        self, shape: Sequence[int] | int, dtype: npt.DTypeLike = np.float32, *, order: str = "C"
    ) -> "npt.NDArray[Any]":
        """As `Client.empty`."""
        if self._sharing is None:
            return unshared(shape, dtype, order)
        return await asyncio.to_thread(self._sharing.empty, shape, dtype, order)

    async def infer(
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
        """As `Client.infer`."""
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
            return await self._run(ask(), deadline_seconds)
        ends_at, is_first = messages.end(self._limit(deadline_seconds)), True
        while True:
            # What is copied is copied in another thread; the event loop goes on.
            passage = await asyncio.to_thread(self._sharing.passage, model_id, messages.named(input).values())
            try:
                with lent(passage) as loan:
                    result = await self._run(ask(loan=loan), ends_at - time.monotonic())
            except RequestError as error:
                if not (is_first and await asyncio.to_thread(self._sharing.mended, model_id, error)):
                    raise
                is_first = False
            else:
                self._sharing.answered(model_id, result.output.values())
                return result

    async def infer_stream(
        self,
        requests: Iterable[InferenceRequest] | AsyncIterable[InferenceRequest],
        *,
        deadline_seconds: float = math.inf,
    ) -> AsyncIterator[StreamResult]:
        """As `Client.infer_stream`; the requests may come from an asynchronous iterable."""
        exchange = Exchange(endpoint=self.target)
        call = self._stubs.inference.InferStream(timeout=messages.time_limit(deadline_seconds), metadata=self._metadata)
        writer = asyncio.create_task(_write(call, exchange, requests), name="requests of a stream")
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                if result := exchange.result(response):
                    yield result
        except grpc.RpcError as error:
            raise messages.failure(error, endpoint=self.target) from None
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.wait([writer])
        if exchange.failure:
            raise exchange.failure

    async def list_models(self, *, task: str = "") -> list[Model]:
        """As `Client.list_models`."""
        page = await self._run(calls.list_models(task, ""))
        models = page.models
        while page.next_page:
            page = await self._run(calls.list_models(task, page.next_page))
            models += page.models
        return models

    async def get_model(self, model_id: str) -> Model:
        """As `Client.get_model`."""
        return await self._run(calls.get_model(model_id))

    async def load(self, model_id: str) -> Model:
        """As `Client.load`."""
        return await self._run(calls.load(model_id))

    async def unload(self, model_id: str) -> Model:
        """As `Client.unload`."""
        return await self._run(calls.unload(model_id))

    async def status(self) -> SystemStatus:
        """As `Client.status`."""
        return await self._run(calls.status())

    async def healthy(self) -> bool:
        """As `Client.healthy`."""
        return await self._run(calls.healthy())

    def _limit(self, deadline_seconds: float | None) -> float:
        return self._deadline_s if deadline_seconds is None else deadline_seconds

    async def _run(self, call: Call[R], deadline_seconds: float | None = None) -> R:
        timeout = messages.time_limit(self._limit(deadline_seconds))
        try:
            answer = await call.method(self._stubs)(call.request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise messages.failure(error, endpoint=self.target) from None
        return call.read(answer)


async def _write(call: Any, exchange: Exchange, requests: Iterable[Any] | AsyncIterable[Any]) -> None:  # noqa: ANN401
    """Sends the requests; what keeps them from being sent, the reader of the answers hears of."""
    try:
        async for request in _each(requests):
            await call.write(exchange.message(request))
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return
    except Exception as error:  # noqa: BLE001 - the caller's own iterable
        exchange.failure = error
        await call.done_writing()


async def _each(requests: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
