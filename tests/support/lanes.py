"""A lane with replicas that only remember what they were sent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from modelmora.control import Key, Worker
from modelmora.spec import ModelDeployment, Priority
from modelmora.v1 import worker_pb2
from modelmora.wire.status import to_rpc
from modelmora_router.calls import Answer, InferenceCall
from modelmora_router.lane import Lane
from modelmora_router.metrics import Meters
from modelmora_router.replicas import Replica, Sendable
from modelmora_router.settings import RouterSettings
from tests.support.entries import texts_of
from tests.support.routing import deployment, eventually

SETTINGS = RouterSettings()


def has_sent(replica: "ScriptedReplica", count: int) -> bool:
    return len(replica.sent) >= count


def has_text(replica: "ScriptedReplica", text: str) -> bool:
    return text in replica.texts


class ScriptedReplica(Replica):
    """A replica without a connection: the test says when it serves and what it answers."""

    def __init__(self, lane: Lane, worker_id: str = "w1", settings: RouterSettings = SETTINGS) -> None:
        worker = Worker(worker_id, Key("default", "one"), "unix:x", "unix:x")
        super().__init__(worker, lane, settings, model_id="one", now=lane._now)
        self.lane = lane
        self.sent: list[worker_pb2.BatchEntry] = []
        self.batches_sent: list[list[str]] = []
        self.withdrawn: list[int] = []

    def serve(self, *, serving: bool = True) -> None:
        self._set(healthy=serving, streaming=serving)

    def send(self, batch: Sequence[Sendable], priority: Priority) -> None:
        written = worker_pb2.Batch()
        for each in batch:
            each.add_to(written)
        self.batches_sent.append([texts_of(entry)[0] for entry in written.entries])
        self.sent.extend(written.entries)
        super().send(batch, priority)
        self._unwritten.clear()  # written at once

    def cancel(self, entry_id: int) -> None:
        if entry_id in self._outstanding:
            self.withdrawn.append(entry_id)
        super().cancel(entry_id)

    @property
    def texts(self) -> list[str]:
        return [texts_of(entry)[0] for entry in self.sent]

    def answer(self, text: str, *, error: Any = None, inference_ms: float = 0.0) -> None:
        """Answers the entry with this text that was sent last."""
        entry_id = [entry.entry_id for entry in self.sent if texts_of(entry)[0] == text][-1]
        failure = to_rpc(error) if error else None
        result = worker_pb2.EntryResult(entry_id=entry_id, error=failure, inference_ms=inference_ms)
        if error is None:
            result.output = b""
        self._take([result])

    def answer_all(self) -> None:
        for entry_id in [entry.entry_id for entry in self.sent if entry.entry_id in self._outstanding]:
            result = worker_pb2.EntryResult(entry_id=entry_id, output=b"")
            self._take([result])


def lose(replica: ScriptedReplica) -> None:
    """As when its process was killed."""
    replica._set(streaming=False)
    replica._lose("Socket closed")


class Clock:
    """Stands still until the test says that time passes."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class Bench:
    """A lane that runs, and the callers that wait in it."""

    def __init__(self, lane: Lane, meters: Meters, group: asyncio.TaskGroup, settings: RouterSettings) -> None:
        self.lane = lane
        self.meters = meters
        self.settings = settings
        self.group = group

    def replica(self, worker_id: str = "w1", *, serving: bool = True) -> ScriptedReplica:
        replica = ScriptedReplica(self.lane, worker_id, self.settings)
        self.lane.attach(replica)
        if serving:
            replica.serve()
        return replica

    def infer(self, made: InferenceCall) -> "asyncio.Task[Answer | Exception]":
        return self.group.create_task(self._outcome(made))

    async def _outcome(self, made: InferenceCall) -> Answer | Exception:
        try:
            return await self.lane.infer(made)
        except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
            return error

    async def queued(self, count: int) -> None:
        await eventually(lambda: self.lane.statistics().queued == count)


@asynccontextmanager
async def running_lane(
    model: ModelDeployment | None = None,
    *,
    settings: RouterSettings = SETTINGS,
    batches: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Bench]:
    model = model or deployment()
    if not batches:
        one = model.spec.batching.model_copy(update={"max_size": 1})
        model = model.model_copy(update={"spec": model.spec.model_copy(update={"batching": one})})
    meters = Meters()
    lane = Lane(model, settings, meters.of(model), now=now, chance=lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        owner = group.create_task(lane.run())
        try:
            yield Bench(lane, meters, group, settings)
        finally:
            owner.cancel()
