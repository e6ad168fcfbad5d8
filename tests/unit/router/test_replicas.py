"""What a replica writes on its stream, and what it tells its owner; the stream is one that remembers."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from modelmora.control import Key, Worker
from modelmora.errors import ModelMoraError
from modelmora.v1 import worker_pb2
from modelmora.wire.values import to_values
from modelmora_router.replicas import Replica
from modelmora_router.settings import RouterSettings


class RememberingOwner:
    def __init__(self) -> None:
        self.given_back: list[int] = []
        self.gone: list[int] = []

    def finished(self, result: worker_pb2.EntryResult) -> None:
        raise AssertionError(f"nobody answered {result.entry_id}")

    def returned(self, entry_ids: Iterable[int]) -> None:
        self.given_back += entry_ids

    def lost(self, entry_ids: Iterable[int], error: ModelMoraError) -> None:
        assert error.context.remedy
        self.gone += entry_ids

    def changed(self) -> None:
        pass


class SlowStream:
    """Takes one message, and the next when the test lets it: what a worker that does not read looks like."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.room = asyncio.Event()

    async def write(self, message: worker_pb2.ProcessRequest) -> None:
        self.written.append([entry.entry_id for entry in message.batch.entries])
        await self.room.wait()


class GarbageStream:
    """What comes in cannot be read: gRPC gives None for it."""

    async def __aiter__(self) -> AsyncIterator[None]:
        yield None


def entry(entry_id: int, *, size: int = 10) -> worker_pb2.BatchEntry:
    return worker_pb2.BatchEntry(entry_id=entry_id, input=to_values({"text": "x" * size}))


def replica_of(owner: RememberingOwner) -> Replica:
    worker = Worker("w1", Key("default", "one"), "unix:x", "unix:x")
    return Replica(worker, owner, RouterSettings(max_request_bytes=1024), model_id="one")


async def test_small_entries_go_together_and_large_ones_each_alone() -> None:
    replica, stream = replica_of(RememberingOwner()), SlowStream()
    stream.room.set()
    call: Any = stream
    for entry_id, size in ((1, 10), (2, 10)):
        replica.send(entry(entry_id, size=size))
    await replica._write_pending(call)
    for entry_id, size in ((3, 800), (4, 800)):
        replica.send(entry(entry_id, size=size))
    await replica._write_pending(call)
    assert stream.written == [[1, 2], [3], [4]]


async def test_what_a_lost_worker_never_heard_of_goes_elsewhere() -> None:
    owner = RememberingOwner()
    replica, stream = replica_of(owner), SlowStream()
    call: Any = stream
    replica.send(entry(1))
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(replica._write_pending(call))
        await asyncio.sleep(0)
        assert stream.written == [[1]]
        replica.send(entry(2))
        writer.cancel()
    replica._lose("Socket closed")
    assert (owner.gone, owner.given_back) == ([1], [2])


async def test_a_worker_that_sends_what_is_no_message_is_told_apart_from_one_that_left() -> None:
    stream: Any = GarbageStream()
    assert await replica_of(RememberingOwner())._read(stream) == "it sent bytes that are no message"


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (Worker("w1", Key("default", "one"), "unix:x", "unix:x", terminating=True), True),
        (Worker("w1", Key("default", "one"), "10.0.0.2:9100", "unix:x"), False),
        (Worker("w1", Key("default", "one"), "unix:x", "10.0.0.2:9101"), False),
        (Worker("w1", Key("default", "two"), "unix:x", "unix:x"), False),
    ],
    ids=["ending", "another address", "another health address", "another model"],
)
def test_a_worker_at_another_address_is_another_replica(now: Worker, *, same: bool) -> None:
    assert replica_of(RememberingOwner()).is_of(now) is same
