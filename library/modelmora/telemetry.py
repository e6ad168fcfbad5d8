"""Logging, set up once a process: one event a line, on stderr, with the keys model, worker, request_id and trace_id.

At a terminal lines are for people, elsewhere they are JSON. Logs of libraries, warnings of Python, and what ends a
thread or the program pass the same way; a traceback is one field, `exception`.
"""

import logging
import sys
import threading
from enum import StrEnum
from types import TracebackType

import structlog

_log = structlog.get_logger(__name__)


class LogFormat(StrEnum):
    AUTO = "auto"  # console at a terminal, else json
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def configure_logging(*, log_format: LogFormat = LogFormat.AUTO, level: str = "INFO") -> None:
    """Sends everything that is logged in this process to stderr."""
    people = resolved(log_format) is LogFormat.CONSOLE
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(people=people))
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in ("httpx", "huggingface_hub", "watchfiles", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell every request, poll or file
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    if not people:
        sys.excepthook, threading.excepthook, sys.unraisablehook = _ended, _ended_thread, _unraisable


def resolved(log_format: LogFormat) -> LogFormat:
    """The format that AUTO means here."""
    if log_format is not LogFormat.AUTO:
        return log_format
    return LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON


def _rendering(*, people: bool) -> list[structlog.typing.Processor]:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if people:
        # Plain tracebacks: those with local variables would write what callers send into the log.
        plain = structlog.dev.plain_traceback
        return [remove, _without_logger, structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=plain)]
    return [remove, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _without_logger(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("logger", None)
    return event


# ------------------------------------------------------------------------------------------------ what nobody caught


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _log.critical("program ended by an error", exc_info=(kind, error, trace))


def _ended_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None and not isinstance(what.exc_value, SystemExit):
        _log.error(
            "thread ended by an error",
            thread=what.thread.name if what.thread else "",
            exc_info=(what.exc_type, what.exc_value, what.exc_traceback),
        )


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    error = what.exc_value or what.exc_type()
    _log.error("error in a finalizer", where=repr(what.object), exc_info=(what.exc_type, error, what.exc_traceback))
