"""Changes become keys in the queue, and keys become reconciles; now and then all of them, whatever was missed."""

import asyncio
from collections.abc import Awaitable, Callable

from modelmora.control import Key
from modelmora_operator.cluster import Cluster
from modelmora_operator.workqueue import Statistics, WorkQueue


class Controller:
    """Runs until it is cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        reconcile: Callable[[Key], Awaitable[float | None]],
        queue: WorkQueue[Key],
        *,
        resync_s: float,
    ) -> None:
        self._cluster = cluster
        self._reconcile = reconcile
        self._queue = queue
        self._resync_s = resync_s

    def statistics(self) -> Statistics:
        """Of the queue."""
        return self._queue.statistics()

    async def run(self) -> None:
        """Follows the changes and works on the queue."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="operator-changes")
            tasks.create_task(self._resync(), name="operator-resync")
            tasks.create_task(self._queue.run(self._reconcile), name="operator-queue")

    async def _follow(self) -> None:
        async for key in self._cluster.changes():
            self._queue.add(key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._resync_s)
            for key in self._cluster.known_keys():
                self._queue.add(key)
