"""What a worker reads of a router that does not read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from modelmora.scheduling import BatchLimits
from modelmora_worker.entries import EntryQueue
from modelmora_worker.lifecycle import Lifecycle
from modelmora_worker.responses import Writer
from modelmora_worker.service import _MOST_UNREAD, WorkerService, _Stream
from modelmora_worker.stopping import Stopping
from tests.support.workers import batch, entry


async def test_a_router_that_does_not_read_its_answers_is_not_read_from() -> None:
    writer, read = Writer("m", 2**20), 0
    stream = _Stream(writer)
    queue = EntryQueue("w", "m", 10, BatchLimits())  # not open: every batch is answered at once, by a refusal
    service = WorkerService(queue=queue, writer=writer, lifecycle=Lifecycle(), stopping=Stopping(1.0), identity="w")

    async def requests() -> AsyncIterator[Any]:
        nonlocal read
        for number in range(10 * _MOST_UNREAD):
            read += 1
            yield batch(entry(number))

    reader = asyncio.create_task(service._read(requests(), stream))
    for _ in range(20 * _MOST_UNREAD):
        await asyncio.sleep(0)
    assert read == stream.outbox.qsize() == _MOST_UNREAD + 1
    stream.outbox.get_nowait()
    stream.sent.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert read == _MOST_UNREAD + 2
    reader.cancel()
    await asyncio.wait({reader})
