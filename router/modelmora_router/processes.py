"""Several router processes on the same two ports, and the one that starts them: it serves nothing itself.

Each of them is a whole router. This one holds the ports, starts again who ended unasked, passes the wish to end on, and
waits for the drain. If it ends itself, by whatever means, the kernel asks the others to end as well.
"""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from modelmora_router.restarts import CANNOT_START, History, is_hopeless, manner

log = structlog.get_logger(__name__)

_KILLED_S: Final = 5.0

Launch = Callable[[int], Awaitable[Process]]


class Processes:
    """Of the numbers from 1 on, each started by `launch`; who does not end within `stop_s` is killed."""

    def __init__(self, launch: Launch, *, count: int, stop_s: float) -> None:
        self._launch = launch
        self._count = count
        self._stop_s = stop_s
        self._running: dict[int, Process] = {}
        self._could_not_begin: set[int] = set()
        self._code = 0

    async def run(self, stopping: asyncio.Event) -> int:
        """Keeps them running until asked to end, or until one cannot even begin; the exit code of the program."""
        try:
            async with asyncio.TaskGroup() as group:
                numbers = range(1, self._count + 1)
                keepers = [
                    group.create_task(self._keep(one, stopping), name=f"router process {one}") for one in numbers
                ]
                await stopping.wait()
                self._signal(signal.SIGTERM)
                await self._ended(keepers)
        finally:
            self.kill()
        return self._code

    def kill(self) -> None:
        """Ends those that still run, at once."""
        self._signal(signal.SIGKILL)

    async def _ended(self, keepers: list[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(keepers, timeout=self._stop_s)
        if late:
            log.error("router processes were killed", processes=sorted(self._running), after_s=self._stop_s)
            self._code = self._code or 1
            self.kill()
            await asyncio.wait(late, timeout=_KILLED_S)
            for keeper in late:
                keeper.cancel()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):  # it has just ended
                process.send_signal(number)

    # ------------------------------------------------------------------------------------------------ one of them

    async def _keep(self, number: int, stopping: asyncio.Event) -> None:
        history = History()
        while not stopping.is_set():
            history, began = history.started(), time.monotonic()
            code = await self._lived(number, stopping)
            if stopping.is_set():
                return
            history = history.ended(time.monotonic() - began)
            if code is not None and history.could_not_begin(code) and self._gives_up(number):
                stopping.set()
                return
            delay_s = history.delay_s(code)
            log.error("router process ended", of_process=number, how=_how(code), again_in_s=delay_s)
            await _passed(delay_s, unless=stopping)

    def _gives_up(self, number: int) -> bool:
        self._could_not_begin.add(number)
        if not is_hopeless(len(self._could_not_begin), self._count):
            return False
        self._code = CANNOT_START
        return True

    async def _lived(self, number: int, stopping: asyncio.Event) -> int | None:
        """Its exit code, negative for a signal; None: it could not be started."""
        try:
            process = await self._launch(number)
        except OSError as error:
            log.warning("router process could not be started", of_process=number, cause=str(error))
            return None
        self._running[number] = process
        if stopping.is_set():  # the wish came while it was started, and not to it
            process.terminate()
        try:
            return await process.wait()
        finally:
            del self._running[number]


def _how(code: int | None) -> str:
    return "not started" if code is None else manner(code)


async def _passed(seconds: float, *, unless: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await unless.wait()
