"""The load generator: reads loads from standard input, puts them on all at once, writes what came of them.

Its requests are made before, and answers are not read beyond their bytes, so that it takes little of the machine that
the server has to share with it; every server that is measured gets the same.
"""

import asyncio
import gc
import pickle
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc.aio
import uvloop
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from load_http import BadAnswer, Pool
from loads import INFER_STREAM, Load, Outcome

from modelmora.v1 import types_pb2

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one server share one connection
)
_MOST_UNANSWERED = 20_000  # a server that answers nothing must not fill our memory

Ask = Callable[[int], Awaitable[int]]  # sends the request of that number; bytes of the answer


async def main() -> None:
    """Loads in, outcomes out."""
    loads: list[Load] = pickle.load(sys.stdin.buffer)
    asks: list[Ask] = []
    async with _opened(loads, asks):
        for load, ask in zip(loads, asks, strict=True):
            for number in range(load.warm_up):
                await ask(number)
        gc.freeze()
        sys.stdout.buffer.write(b"begun\n")
        sys.stdout.buffer.flush()
        pairs = zip(loads, asks, strict=True)
        outcomes = await asyncio.gather(*(_open(*pair) if pair[0].rate else _closed(*pair) for pair in pairs))
    sys.stdout.buffer.write(pickle.dumps(outcomes))


# ------------------------------------------------------------------------------------------------ loops


async def _closed(load: Load, ask: Ask) -> Outcome:
    outcome, numbers = Outcome(load.name), count()
    begun = time.perf_counter()
    end = begun + load.seconds

    async def client() -> None:
        while time.perf_counter() < end:
            number = next(numbers)
            if load.ends_after and number >= load.ends_after:
                return
            await _timed(ask, number, time.perf_counter(), outcome)

    await asyncio.gather(*(client() for _ in range(load.clients)))
    outcome.elapsed_s = time.perf_counter() - begun
    return outcome


async def _open(load: Load, ask: Ask) -> Outcome:
    outcome = Outcome(load.name)
    running: set[asyncio.Task[None]] = set()
    begun = time.perf_counter()
    for number in range(int(load.seconds * load.rate)):
        intended = begun + number / load.rate
        if (ahead := intended - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        outcome.late_ms = max(outcome.late_ms, (time.perf_counter() - intended) * 1e3)
        if len(running) >= _MOST_UNANSWERED:
            outcome.errors["not sent: too many unanswered"] += 1
            continue
        task = asyncio.create_task(_timed(ask, number, intended, outcome))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    outcome.elapsed_s = time.perf_counter() - begun
    return outcome


async def _timed(ask: Ask, number: int, intended: float, outcome: Outcome) -> None:
    try:
        received = await ask(number)
    except grpc.aio.AioRpcError as error:
        outcome.errors[_code(error)] += 1
    except (BadAnswer, OSError, TimeoutError) as error:
        outcome.errors[f"{type(error).__name__}: {error}"] += 1
    else:
        outcome.received_bytes += received
        outcome.latencies_ms.append((time.perf_counter() - intended) * 1e3)


def _code(error: grpc.aio.AioRpcError) -> str:
    """gRPC's code and, of our own servers, the more exact one."""
    status, reason = rpc_status.from_call(error), ""
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    return f"{error.code().name} {reason}".strip()


# ------------------------------------------------------------------------------------------------ connections


@asynccontextmanager
async def _opened(loads: list[Load], asks: list[Ask]) -> AsyncIterator[None]:
    """Fills `asks`, one for each load; what they use is closed at the end."""
    channels: list[grpc.aio.Channel] = []
    pools: list[Pool] = []
    for load in loads:
        if load.target.startswith("http://"):
            pools.append(Pool(load.target, load.payloads, load.headers))
            asks.append(_within(pools[-1].ask, load.request_timeout_s))
            continue
        own = [grpc.aio.insecure_channel(load.target, options=_OPTIONS) for _ in range(load.connections)]
        channels += own
        asks.append(_streamed(load, own) if load.method == INFER_STREAM else _unary(load, own))
    try:
        yield
    finally:
        for pool in pools:
            pool.close()
        for channel in channels:
            await channel.close()


def _within(ask: Ask, timeout_s: float) -> Ask:
    async def bounded(number: int) -> int:
        async with asyncio.timeout(timeout_s):
            return await ask(number)

    return bounded


def _unary(load: Load, channels: list[grpc.aio.Channel]) -> Ask:
    # Without serializers: bytes as they are.
    calls: list[Any] = [channel.unary_unary(load.method) for channel in channels]
    payloads, timeout_s, metadata = load.payloads, load.request_timeout_s, tuple(load.headers.items()) or None

    async def ask(number: int) -> int:
        call = calls[number % len(calls)]
        return len(await call(payloads[number % len(payloads)], timeout=timeout_s, metadata=metadata))

    return ask


def _streamed(load: Load, channels: list[grpc.aio.Channel]) -> Ask:
    """One stream for each request: every part is read until the answer is whole."""
    calls: list[Any] = [channel.stream_stream(load.method) for channel in channels]

    async def ask(number: int) -> int:
        call = calls[number % len(calls)](timeout=load.request_timeout_s)
        await call.write(load.payloads[number % len(load.payloads)])
        await call.done_writing()
        received = 0
        async for data in call:
            received += len(data)
            response = types_pb2.InferenceResponse.FromString(data)
            if response.HasField("error"):
                raise BadAnswer(f"stream: {response.error.code} {response.error.message}")
        return received

    return ask


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
