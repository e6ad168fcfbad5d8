"""How a worker process is started: forked from the warm parent, or from nothing.

From nothing when the model sets environment variables (libraries read many of them when they are imported, so a fork
would come too late), and when there is no warm parent.
"""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from modelmora_operator.backends.children import Child
from modelmora_operator.backends.forkserver import WarmParent

log = structlog.get_logger(__name__)

_MOST_WARM_UPS = 5  # each failed one costs the worker that waits for it some seconds


@dataclass(frozen=True, slots=True)
class WorkerProgram:
    """The worker's code by name, since the operator never imports it."""

    entry: str = "modelmora_worker.process:run"  # package.module:function, called with the settings as JSON
    module: str = "modelmora_worker"  # python -m MODULE --settings FILE
    preload: str = "modelmora_worker.preload"  # what the warm parent imports


@dataclass(frozen=True, slots=True)
class Launch:
    """One worker to be started."""

    settings_json: str
    settings_file: Path  # where a fresh process reads them
    environment: Mapping[str, str] = field(default_factory=dict)  # what the model adds


class Launcher(Protocol):
    """Starts worker processes."""

    async def launch(self, launch: Launch) -> Child:
        """Starts one.

        Raises:
            OSError: the system could not.
        """
        ...

    async def close(self) -> None:
        """Gives back what it holds; started processes are not touched."""
        ...


class FreshLauncher:
    """Each worker is a new interpreter."""

    def __init__(self, program: WorkerProgram, environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = environment

    async def launch(self, launch: Launch) -> Child:
        launch.settings_file.write_text(launch.settings_json, encoding="utf-8")
        # Started on this thread, not on another: where a worker asks the kernel to be told of its parent's end, the
        # parent is the thread that started it.
        return _start(self._program.module, launch.settings_file, {**self._environment, **launch.environment})

    async def close(self) -> None:
        """There is nothing to give back."""


class WarmLauncher:
    """Forks where it can, and starts a new interpreter where it must."""

    def __init__(self, program: WorkerProgram, parent: WarmParent, fresh: FreshLauncher) -> None:
        self._program = program
        self._parent = parent
        self._fresh = fresh
        self._warming = asyncio.Lock()
        self._usable = False
        self._attempts_left = _MOST_WARM_UPS

    async def warm_up(self) -> None:
        """Warms the parent up; a launch waits for it. One that ended is replaced, but not for ever."""
        async with self._warming:
            if not self._usable and self._attempts_left:
                self._attempts_left -= 1
                self._usable = await self._parent.warm_up()

    async def launch(self, launch: Launch) -> Child:
        if launch.environment:
            return await self._fresh.launch(launch)
        await self.warm_up()
        if not self._usable:
            return await self._fresh.launch(launch)
        try:
            return await self._parent.fork(self._program.entry, launch.settings_json)
        except (OSError, EOFError):
            log.warning("warm parent ended; the worker is started from nothing")
            self._usable = False
            return await self._fresh.launch(launch)

    async def close(self) -> None:
        await self._parent.close()


def _start(module: str, settings_file: Path, environment: Mapping[str, str]) -> Child:
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", module, "--settings", str(settings_file)],
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C goes to the parent's group; the parent decides what becomes of its workers
    )

    async def reap() -> int:
        return process.wait()  # it has ended already

    return Child(process.pid, reap, warm=False)
