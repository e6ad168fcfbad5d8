"""SIGTERM and SIGINT: the first says to end in order, a second one to end at once.

SIGHUP tells one of several processes that the one which started them has ended: it ends in order too. The kernel may
say so more than once, and whoever ends all processes together says it beside it: there is no second signal for these.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

log = structlog.get_logger(__name__)

PARENT_ENDED: Final = signal.SIGHUP
_INTERRUPTED: Final = 130
_SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG


@contextmanager
def heard(stopping: asyncio.Event, at_once: Callable[[], None] = lambda: None) -> Iterator[None]:
    """In this block the first sets the event; `at_once` is called before the end by a second one."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, _on_signal, number, stopping, at_once)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _on_signal(number: signal.Signals, stopping: asyncio.Event, at_once: Callable[[], None]) -> None:
    if stopping.is_set():
        log.warning("ended at once", signal=number.name)
        at_once()
        os._exit(_INTERRUPTED)
    log.info("draining; the same signal again ends at once", signal=number.name)
    stopping.set()


@contextmanager
def heard_by_one_of_several(stopping: asyncio.Event) -> Iterator[None]:
    """In this block any of them, and the end of the parent, sets the event; before it, that end is its own.

    None of them ends it at once: whoever means that kills it.
    """
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT, PARENT_ENDED)
    for number in numbers:
        loop.add_signal_handler(number, _on_any, number, stopping)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _on_any(number: signal.Signals, stopping: asyncio.Event) -> None:
    if not stopping.is_set():
        log.info("draining", signal=number.name, parent_ended=number is PARENT_ENDED)
        stopping.set()


def end_with(parent_pid: int) -> None:
    """From now on this process is told by the kernel when that parent ends; if it has ended already, so does this."""
    signal.signal(PARENT_ENDED, signal.SIG_DFL)  # nohup would have it ignored
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, PARENT_ENDED) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not tell of a parent's end")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), PARENT_ENDED)
