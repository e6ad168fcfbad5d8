"""What a replica writes on its stream, and what it tells its owner; the stream is one that remembers."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from modelmora.control import Key, Worker
from modelmora.errors import ModelMoraError
from modelmora.spec import Priority
from modelmora.v1 import worker_pb2
from modelmora_router.breaker import BreakerState
from modelmora_router.replicas import Replica
from modelmora_router.settings import RouterSettings
from tests.support.entries import Item


class RememberingOwner:
    def __init__(self) -> None:
        self.given_back: list[int] = []
        self.gone: list[int] = []
        self.answered: list[worker_pb2.EntryResult] = []

    def finished(self, result: worker_pb2.EntryResult) -> None:
        self.answered.append(result)

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


def entry(entry_id: int, *, size: int = 10) -> Item:
    return Item(entry_id, "x" * size)


def replica_of(owner: RememberingOwner) -> Replica:
    worker = Worker("w1", Key("default", "one"), "unix:x", "unix:x")
    return Replica(worker, owner, RouterSettings(max_request_bytes=1024), model_id="one")


def send(replica: Replica, *entry_ids: int) -> None:
    replica.send([entry(entry_id) for entry_id in entry_ids], Priority.NORMAL)


async def test_a_batch_is_one_message_without_what_was_cancelled_meanwhile() -> None:
    replica, stream = replica_of(RememberingOwner()), SlowStream()
    stream.room.set()
    call: Any = stream
    send(replica, 1, 2)
    send(replica, 3)
    send(replica, 4)
    replica.cancel(2)
    replica.cancel(3)
    await replica._write_pending(call)
    assert stream.written == [[1], [4]]
    assert (replica.batches, replica.outstanding) == (2, 2)


async def test_a_worker_that_does_not_read_keeps_no_bytes_of_those_who_left() -> None:
    replica = replica_of(RememberingOwner())
    send(replica, 1, 2)
    for entry_id in (1, 2):
        replica.cancel(entry_id)
    assert not replica._unwritten


async def test_a_worker_that_left_is_not_waited_for_when_nobody_waits_for_its_answers() -> None:
    replica = replica_of(RememberingOwner())
    replica._set(streaming=True)
    send(replica, 1)
    async with asyncio.timeout(replica._settings.linger_s / 2):
        lingering = asyncio.create_task(replica._linger())
        await asyncio.sleep(0)
        replica.cancel(1)
        await lingering


async def test_a_result_that_comes_twice_counts_once() -> None:
    owner = RememberingOwner()
    replica = replica_of(owner)
    send(replica, 1, 2)
    twice = worker_pb2.EntryResult(entry_id=1, output=b"")
    replica._take([twice, twice, worker_pb2.EntryResult(entry_id=77)])
    assert [result.entry_id for result in owner.answered] == [1]
    assert replica.outstanding == 1


async def test_only_a_worker_that_has_fallen_silent_fails_with_a_request_that_took_too_long() -> None:
    clock = [100.0]
    worker = Worker("w1", Key("default", "one"), "unix:x", "unix:x")
    settings = RouterSettings(breaker_failures=1)
    replica = Replica(worker, RememberingOwner(), settings, model_id="one", now=lambda: clock[0])
    send(replica, 1)
    clock[0] += 2
    send(replica, 2)
    clock[0] += 1
    replica._take([worker_pb2.EntryResult(entry_id=1)])  # the slowest of late took 3 s
    send(replica, 3)
    clock[0] += 11.9
    replica.gave_no_answer(3, overdue=True)  # it may be slow
    assert replica.breaker(clock[0]) is BreakerState.CLOSED
    clock[0] += 0.2
    replica.gave_no_answer(2, overdue=True)  # it has answered others since
    assert replica.breaker(clock[0]) is BreakerState.CLOSED
    replica.gave_no_answer(3, overdue=True)
    assert replica.breaker(clock[0]) is BreakerState.OPEN


def silent_replica(clock: list[float], **settings: float) -> Replica:
    """One that has answered at once so far, and no more from now on."""
    worker = Worker("w1", Key("default", "one"), "unix:x", "unix:x")
    chosen = RouterSettings.model_validate(settings)
    replica = Replica(worker, RememberingOwner(), chosen, model_id="one", now=lambda: clock[0])
    send(replica, 99)
    replica._take([worker_pb2.EntryResult(entry_id=99)])
    clock[0] += 1
    return replica


def give_up(replica: Replica, *entry_ids: int, overdue: bool = True) -> None:
    """As a lane does."""
    for entry_id in entry_ids:
        replica.gave_no_answer(entry_id, overdue=overdue)
        replica.cancel(entry_id)


@pytest.mark.req("RM-5.1d")
async def test_a_batch_without_an_answer_is_one_failure_however_many_were_in_it() -> None:
    clock = [100.0]
    replica = silent_replica(clock, breaker_failures=2)
    send(replica, 1, 2, 3, 4, 5)
    send(replica, 6)
    clock[0] += 10
    give_up(replica, 1, 2, 3)
    assert replica.breaker(clock[0]) is BreakerState.CLOSED
    give_up(replica, 6)
    assert replica.breaker(clock[0]) is BreakerState.OPEN
    until = replica.trusted_at
    clock[0] += 60
    give_up(replica, 4, 5)  # of a batch that was counted
    assert replica.trusted_at == until


@pytest.mark.req("RM-5.1d")
async def test_a_trial_that_has_no_answer_in_its_time_has_failed_if_that_was_long_enough_for_one() -> None:
    clock = [100.0]
    replica = silent_replica(clock, breaker_failures=1)
    send(replica, 1)
    send(replica, 2)
    clock[0] += 10
    give_up(replica, 1)
    first_s = (replica.trusted_at or 0) - clock[0]
    clock[0] = replica.trusted_at or 0
    give_up(replica, 2)  # sent before it opened: no trial
    assert replica.breaker(clock[0]) is BreakerState.HALF_OPEN
    send(replica, 3)
    clock[0] += 0.01
    give_up(replica, 3, overdue=False)  # its caller left by itself
    assert replica.breaker(clock[0]) is BreakerState.HALF_OPEN
    send(replica, 4)
    clock[0] += 0.01
    give_up(replica, 4)  # no worker could have answered: else who is in a hurry would keep it closed to all
    assert replica.breaker(clock[0]) is BreakerState.HALF_OPEN
    send(replica, 5)
    clock[0] += 1.0
    give_up(replica, 5)
    assert replica.breaker(clock[0]) is BreakerState.OPEN
    assert (replica.trusted_at or 0) - clock[0] >= first_s * 2 * 0.75 / 1.25


async def test_what_a_lost_worker_never_heard_of_goes_elsewhere() -> None:
    owner = RememberingOwner()
    replica, stream = replica_of(owner), SlowStream()
    call: Any = stream
    send(replica, 1)
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(replica._write_pending(call))
        await asyncio.sleep(0)
        assert stream.written == [[1]]
        send(replica, 2)
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
