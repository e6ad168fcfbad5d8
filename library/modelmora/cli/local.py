"""One process that serves: the operator's tasks, the router's tasks, and the signals that end them in order.

The first SIGTERM or SIGINT drains: the router answers what it accepted, then the operator ends the workers. A second
one ends this process at once; the workers see that and end too.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from modelmora import garbage
from modelmora.cli import settings as program_settings
from modelmora.cli.announcement import Announcement
from modelmora.cli.bare_source import Sources
from modelmora.cli.settings import ServeSettings
from modelmora.control.local import LocalControl
from modelmora.errors import InvalidSettings, ModelMoraError
from modelmora.telemetry import resolved
from modelmora_operator import local as operator
from modelmora_operator.metrics import Metrics
from modelmora_operator.settings import OperatorSettings
from modelmora_router import server as router
from modelmora_router.exporting import exporting
from modelmora_router.server import Bound
from modelmora_router.settings import RouterSettings, TracingSettings

log = structlog.get_logger(__name__)

_INTERRUPTED: Final = 130
_KINDS: Final = (ServeSettings, OperatorSettings, RouterSettings)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Of this program and of the two parts that run in it."""

    serve: ServeSettings
    operator: OperatorSettings
    router: RouterSettings
    tracing: TracingSettings


def read_settings(config: Path | None, flags: Mapping[str, Any]) -> LocalSettings:
    """Settings of both parts: default < file < environment < flag.

    Raises:
        InvalidSettings: one of them is wrong or unknown.
    """
    values = program_settings.read_file(config, _KINDS) if config else {}
    settings = LocalSettings(
        serve=program_settings.read(ServeSettings, file_values=values, flags=flags),
        operator=program_settings.read(OperatorSettings, file_values=values, flags=flags),
        router=program_settings.read(RouterSettings, file_values=values, flags=flags),
        tracing=program_settings.read(TracingSettings, file_values={}, flags={}),
    )
    _refuse_processes(settings.router)
    return settings


def _refuse_processes(router: RouterSettings) -> None:
    if router.processes > 1:
        raise InvalidSettings(
            f"modelmora serve runs its router in its own process, not in {router.processes} of them",
            field="processes",
            remedy="leave processes at 1; in a cluster it is router.processes of the chart",
        )


def warn_of_unknown_variables() -> None:
    """Says which MODELMORA_… variables have no effect."""
    environment = os.environ  # noqa: TID251 - only its names
    if unknown := program_settings.unknown_variables(environment, _KINDS):
        log.warning("no such settings", variables=unknown, remedy="docs/reference/settings.md lists them")


def run(sources: Sources, *, settings: LocalSettings, ask: str | None) -> None:
    """Serves until a signal says to end.

    Raises:
        ModelMoraError: why it cannot start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(sources, settings, ask))
        except BaseExceptionGroup as group:
            raise _cause(group) from None


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of ours that a person can do something about; else the group itself."""
    for error in group.exceptions:
        cause = _cause(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(cause, ModelMoraError):
            return cause
    return group


async def _serve(sources: Sources, settings: LocalSettings, ask: str | None) -> None:
    control, metrics = LocalControl(), Metrics()
    stopping, workers_stopping, deployments_known = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with _signals(stopping), exporting(settings.tracing) as spans:
        async with asyncio.TaskGroup() as tasks:
            operating = operator.run(
                settings.operator,
                control,
                environment=dict(os.environ),  # noqa: TID251 - read here, once
                paths=sources.paths,
                deployments=sources.deployments,
                worker_options=_logging_of_workers(settings.serve),
                metrics=metrics,
                ready=deployments_known,
                stop=workers_stopping,
            )
            tasks.create_task(operating, name="operator")
            await deployments_known.wait()
            announced = Announcement(settings.operator, control, ask, tasks)
            with announced:
                await router.run(
                    settings.router,
                    control,
                    ready=lambda bound: _show(announced, bound),
                    stop=stopping,
                    spans=spans,
                    collectors=[metrics.registry],
                )
            workers_stopping.set()


def _show(announced: Announcement, bound: Bound) -> None:
    garbage.settle()
    announced.show(bound)


def _logging_of_workers(settings: ServeSettings) -> dict[str, str]:
    return {"log_format": resolved(settings.log_format).value, "log_level": settings.log_level.value.lower()}


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, _on_signal, number, stopping)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _on_signal(number: signal.Signals, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        log.warning("ended at once", signal=number.name)
        os._exit(_INTERRUPTED)  # the workers watch this process, and end with it
    log.info("draining; the same signal again ends at once", signal=number.name)
    stopping.set()
