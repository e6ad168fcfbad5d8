"""What the log says about a request in this worker, with the ids under which the router and the caller know it."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import structlog

from modelmora.errors import InferenceFailed, ModelMoraError
from modelmora_worker.entry import Entry
from modelmora_worker.inference import Answer

_log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # to ask for, before a line is made that nobody reads
_TRACE_ID: Final = slice(3, 35)  # in the traceparent that the router made


def started(entries: Sequence[Entry]) -> None:
    if _level.isEnabledFor(logging.DEBUG):
        for entry in entries:
            _log.debug("request started", **_names(entry), priority=entry.priority.name, batch=len(entries))


def ended(entries: Sequence[Entry], answers: Sequence[Answer], *, inference_ms: float) -> None:
    """The engine's failures with their traceback; what callers do wrong comes in floods, and is told them."""
    told = _level.isEnabledFor(logging.DEBUG)
    for entry, answer in zip(entries, answers, strict=True):
        if isinstance(answer, InferenceFailed):
            _log.warning("request failed", **_names(entry), cause=answer.message, exc_info=answer.__cause__)
        elif told:
            _tell(entry, answer, inference_ms)


def _tell(entry: Entry, answer: Answer, inference_ms: float) -> None:
    if entry.cancelled:
        _log.debug("request failed", **_names(entry), cause="nobody waits for it any more")
    elif isinstance(answer, ModelMoraError):
        _log.debug("request failed", **_names(entry), cause=answer.message)
    else:
        _log.debug("request completed", **_names(entry), inference_ms=round(inference_ms, 3))


def _names(entry: Entry) -> dict[str, Any]:
    return {"request_id": entry.request_id, "trace_id": entry.traceparent[_TRACE_ID]}
