"""The program that starts several routers: it finds the ports free, holds them, and starts itself once for each.

A process is told by its environment which one it is, where the others are, and whose end is its own.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from modelmora_router import last_words, ports, signals
from modelmora_router.processes import Processes
from modelmora_router.settings import ProcessSettings, RouterSettings, Settings

log = structlog.get_logger(__name__)

_MORE_S: Final = 2.0  # that a process may need at its end, besides the times that are set


def run(settings: Settings) -> int:
    """Until asked to end; the exit code.

    Raises:
        AddressInUse: another program listens on one of the ports.
        InvalidSettings: the host is no address of this machine.
    """
    return asyncio.run(_run(settings.router))


async def _run(router: RouterSettings) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="modelmora-") as folder,
        ports.reserve(router.host, router.rest_port, "rest_port") as rest,
        ports.reserve(router.host, router.grpc_port, "grpc_port") as grpc,
    ):
        rest_port, grpc_port = rest.getsockname()[1], grpc.getsockname()[1]
        log.info("starting router processes", processes=router.processes, rest_port=rest_port, grpc_port=grpc_port)
        told = {"MODELMORA_REST_PORT": str(rest_port), "MODELMORA_GRPC_PORT": str(grpc_port)}
        return await _keep_running(router, _Launcher(Path(folder), told))


async def _keep_running(router: RouterSettings, launcher: "_Launcher") -> int:
    stopping = asyncio.Event()
    stop_s = router.drain_timeout_s + 2 * router.close_timeout_s + _MORE_S
    processes = Processes(launcher.launch, count=router.processes, stop_s=stop_s)

    def at_once() -> None:
        processes.kill()
        shutil.rmtree(launcher.folder, ignore_errors=True)

    with signals.heard(stopping, at_once=at_once):
        code = await processes.run(stopping)
    words = [last_words.take(launcher.folder, number) for number in range(1, router.processes + 1)]
    if code:
        sys.stderr.write(next(filter(None, words), ""))  # all of them have said the same
    return code


@dataclass(frozen=True, slots=True)
class _Launcher:
    """Starts this program once more, as one of several."""

    folder: Path
    told: Mapping[str, str]

    async def launch(self, number: int) -> Process:
        if words := last_words.take(self.folder, number):
            log.error("router process could not begin; it is tried again", of_process=number, why=words.strip())
        own = ProcessSettings(number=number, folder=self.folder, parent_pid=os.getpid())
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "modelmora_router",
            env={**os.environ, **self.told, **own.variables()},  # noqa: TID251 - handed on
            process_group=0,  # Ctrl-C reaches a whole group; what it means is decided here
        )
