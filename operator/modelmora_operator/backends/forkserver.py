"""The warm parent: a process that has imported the libraries and forks a worker in milliseconds.

It is the standard library's fork server with a preload list. What one must know of it:
- It imports the preload by name and swallows an ImportError; any other exception ends it. So the first fork asks what
  came of the preload, and it is logged.
- Starting a process blocks until it has finished importing, and its objects are not made for several threads. So all
  of it is done on one thread of its own.
- It lives until every process that it forked has ended: workers watch a pipe whose other end this process holds.
- There is one for a process, with private names only: they are used here and nowhere else.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeVar

import structlog

from modelmora_operator.backends import forked
from modelmora_operator.backends.children import Child

T = TypeVar("T")

_PRELOAD_TIMEOUT_S = 300.0
_END_AGAIN_S = 0.05
_REAP_TIMEOUT_S = 2.0  # for the fork server to hear of an end and to pass the exit code on
_UNKNOWN_EXIT_CODE = 255  # as multiprocessing says it when the fork server has ended itself
_EXIT_MODULE = "modelmora_operator.backends.forkserver_exit"

log = structlog.get_logger(__name__)


class WarmParent:
    """Forks processes that have imported `preload`. `temporary` is a short path for its listening socket."""

    def __init__(self, preload: str, *, temporary: Path) -> None:
        self._preload = preload
        self._temporary = temporary
        self._context = multiprocessing.get_context("forkserver")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="warm-parent")
        self.failure = ""  # why nothing can be forked, or what of the preload is missing

    async def warm_up(self) -> bool:
        """Starts it and waits until it has imported. False: it cannot be used."""
        try:
            self.failure = await self._call(self._start_and_ask)
        except (OSError, EOFError) as error:
            self.failure = f"the fork server ended while it imported {self._preload} ({type(error).__name__})"
            log.warning("warm parent failed", preload=self._preload, failure=self.failure)
            return False
        if self.failure:
            log.warning("preload incomplete", preload=self._preload, failure=self.failure)
        else:
            log.info("warm parent ready", preload=self._preload)
        return True

    async def fork(self, entry: str, argument: str) -> Child:
        """A new process in which the function of that name runs.

        Raises:
            OSError, EOFError: the fork server has ended.
        """
        started = self._thread.submit(self._fork, entry, argument)
        try:
            return await asyncio.wrap_future(started)
        except asyncio.CancelledError:
            started.add_done_callback(_kill_abandoned)
            raise

    async def close(self) -> None:
        """Ends the fork server; a start that is under way fails. Processes that it forked are not touched."""
        # Not on its thread: that may be blocked by the very server that is ended here, or be about to start one.
        idle = asyncio.ensure_future(asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True))
        while not idle.done():
            await asyncio.to_thread(self._end_server)
            await asyncio.wait([idle], timeout=_END_AGAIN_S)
        await asyncio.to_thread(self._end_server)

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(function))

    def _start_and_ask(self) -> str:
        # Its listening socket goes where leftovers of a killed server are swept, not to a folder of its own in /tmp.
        multiprocessing.current_process()._config["tempdir"] = str(self._temporary)  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
        self._context.set_forkserver_preload([forked.__name__, _EXIT_MODULE, self._preload])
        forkserver.ensure_running()
        receiver, sender = self._context.Pipe(duplex=False)
        with receiver, sender:
            process = self._context.Process(target=forked.report_preload, args=(self._preload, sender), daemon=True)
            process.start()
            sender.close()
            answer = receiver.recv() if receiver.poll(_PRELOAD_TIMEOUT_S) else "no answer"
        process.join()
        process.close()
        return str(answer)

    def _fork(self, entry: str, argument: str) -> Child:
        process = self._context.Process(target=forked.run, args=(entry, argument), daemon=True)
        process.start()
        return Child(process.pid or 0, lambda: self._call(lambda: _exit_code(process)), warm=True)

    def _end_server(self) -> None:
        server_pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
        if server_pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(server_pid, signal.SIGTERM)
        with contextlib.suppress(FileNotFoundError):  # its socket: it unlinks that itself where it can
            forkserver._forkserver._stop()  # type: ignore[attr-defined]  # noqa: SLF001 - no public name


def _exit_code(process: ForkServerProcess) -> int:
    process.join(_REAP_TIMEOUT_S)
    code = process.exitcode
    if code is None:
        return _UNKNOWN_EXIT_CODE
    process.close()
    return code


def _kill_abandoned(started: "Future[Child]") -> None:
    if not started.cancelled() and started.exception() is None:
        child = started.result()
        child.signal(signal.SIGKILL)
        child.close()
