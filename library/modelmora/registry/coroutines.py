"""A coroutine that loads a model, as a plain loader for the thread that waits for it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future


def is_coroutine(loader: Callable[[], object]) -> bool:
    """Whether the loader is a coroutine function, or an object that is called like one."""
    return inspect.iscoroutinefunction(loader) or inspect.iscoroutinefunction(type(loader).__call__)


class OnLoop:
    """Runs the coroutine on the loop on which this is made, when it is called, from another thread.

    Its task exists from now on, and waits: so the end of the loop cancels it at any moment, and its caller hears of it.
    """

    def __init__(self, loader: Callable[[], Awaitable[object]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._begin: Future[None] = Future()
        self._outcome: Future[object] = Future()
        self._task = self.loop.create_task(self._run(loader), name="load a model")
        self._task.add_done_callback(self._ended)

    def __call__(self) -> object:
        """What the coroutine returns or raises.

        Raises:
            CancelledError: its loop ended before it did.
        """
        if self._begin.set_running_or_notify_cancel():
            self._begin.set_result(None)
        return self._outcome.result()

    def drop(self) -> None:
        """It will not be called, if it has not been."""
        self._begin.cancel()

    async def _run(self, loader: Callable[[], Awaitable[object]]) -> object:
        await asyncio.wrap_future(self._begin)
        return await loader()

    def _ended(self, task: "asyncio.Task[object]") -> None:
        if task.cancelled():
            self._outcome.set_exception(CancelledError("its event loop ended, or cancelled it"))
        elif error := task.exception():
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(task.result())
