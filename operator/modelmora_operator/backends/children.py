"""A started worker process, watched by a pidfd.

A pidfd becomes readable when its process ends, whoever is its parent, and a signal sent through it cannot hit another
process that was given the same number: both matter for workers that were forked by the fork server and not by us.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable


class Child:
    """`reap` is called once, when the process has ended, and answers with the exit code, negative for a signal."""

    def __init__(self, pid: int, reap: Callable[[], Awaitable[int]], *, warm: bool) -> None:
        self.pid = pid
        self.warm = warm
        self._reap = reap
        self._reaped: asyncio.Future[int] | None = None
        self._pidfd = _open_pidfd(pid)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens if the process has ended."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Until the process has ended and been reaped: its exit code. To be awaited by one task at a time."""
        if self._pidfd is not None:
            await _readable(self._pidfd)
        if self._reaped is None:
            self._reaped = asyncio.ensure_future(self._reap())
        code = await asyncio.shield(self._reaped)  # reaped once, even if who waits is cancelled and waits again
        self.close()
        return code

    def close(self) -> None:
        """Gives the descriptor back; the process is not touched."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None  # it has ended and been reaped already


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
