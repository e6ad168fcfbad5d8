"""The other router processes on the same ports: their numbers, and whether they are ready.

A scrape or a probe reaches one of them, whichever the kernel chose, and is to be told of all. So each listens on a unix
socket too, in a folder of theirs alone, and there the one that was reached asks the others, at once and not for long.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
import structlog
from prometheus_client.core import Metric

from modelmora_router.expositions import read

FAMILIES: Final = "/families"
READY: Final = "/ready"
_ANSWER_S: Final = 3.0  # less than a probe waits

log = structlog.get_logger(__name__)
T = TypeVar("T")


class State(StrEnum):
    """What another process says, or what its silence says."""

    READY = "ready"
    NOT_READY = "not ready"
    STARTING = "starting"  # nobody listens
    SILENT = "does not answer"


@dataclass(frozen=True, slots=True)
class _Answer:
    state: State
    body: bytes = b""


class Siblings:
    """As seen by the process of this number, from 1 on; the folder is open to nobody else."""

    def __init__(self, folder: Path, *, number: int, processes: int) -> None:
        self.number = number
        self._folder = folder
        self._others = [other for other in range(1, processes + 1) if other != number]

    @property
    def socket(self) -> Path:
        """Where the others ask this one."""
        return self._socket(self.number)

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.s"

    async def states(self) -> dict[int, State]:
        """Of every other process."""
        answers = await self._of_each(lambda other: self._ask(other, READY))
        return {other: answer.state for other, answer in answers.items()}

    async def families(self) -> dict[int, list[Metric] | None]:
        """The numbers of every other process; None for one that did not tell them in time."""
        return await self._of_each(self._families)

    async def _families(self, other: int) -> list[Metric] | None:
        answer = await self._ask(other, FAMILIES)
        if answer.state is not State.READY:
            log.warning("numbers of a router process are missing", of_process=other, why=answer.state.value)
            return None
        return await asyncio.to_thread(read, answer.body)

    async def _of_each(self, ask: Callable[[int], Awaitable[T]]) -> dict[int, T]:
        answers = await asyncio.gather(*map(ask, self._others))
        return dict(zip(self._others, answers, strict=True))

    async def _ask(self, other: int, path: str) -> _Answer:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        way = aiohttp.UnixConnector(str(self._socket(other)))
        try:
            async with (
                aiohttp.ClientSession(connector=way, timeout=timeout) as session,
                session.get(f"http://process-{other}{path}") as answer,
            ):
                ready = answer.status == HTTPStatus.OK
                return _Answer(State.READY if ready else State.NOT_READY, await answer.read())
        except aiohttp.ClientConnectorError:
            return _Answer(State.STARTING)
        except (aiohttp.ClientError, TimeoutError):
            return _Answer(State.SILENT)
