"""Where the program begins: it is the router, one of several on the same ports, or the one that starts those.

Who only starts others imports little: it has begun in an instant, and takes little memory.
"""

import os
import shutil
import sys

import structlog

from modelmora.errors import ModelMoraError
from modelmora.telemetry import configure_logging
from modelmora_router import last_words, signals, supervisor
from modelmora_router.restarts import CANNOT_START
from modelmora_router.settings import Settings


def main() -> None:
    """Serves until a signal says to end."""
    try:
        settings = Settings.read()
        configure_logging(log_format=settings.cluster.log_format, level=settings.cluster.log_level.value)
        sys.exit(_run(settings))
    except ModelMoraError as error:
        sys.stderr.write(last_words.of(error))
        sys.exit(CANNOT_START)


def _run(settings: Settings) -> int:
    if settings.process.number:
        return _one_of_several(settings)
    if settings.router.processes > 1:
        return supervisor.run(settings)
    _serve(settings)
    return 0


def _one_of_several(settings: Settings) -> int:
    process = settings.process
    signals.end_with(process.parent_pid)
    structlog.contextvars.bind_contextvars(process=process.number)
    try:
        _serve(settings)
    except ModelMoraError as error:  # all of them would say the same: it is left to the one that started them
        last_words.leave(last_words.of(error), process.folder, process.number)
        return CANNOT_START
    finally:
        if os.getppid() != process.parent_pid:  # who made the folder can no longer remove it
            shutil.rmtree(process.folder, ignore_errors=True)
    return 0


def _serve(settings: Settings) -> None:
    from modelmora_router import program  # noqa: PLC0415 - it is large

    program.run(settings)
