"""What a lane says of its requests: each one's way at DEBUG, and at WARNING that there are soon too many."""

import logging
import math
from typing import Final

import structlog

from modelmora_router.tickets import Ticket
from modelmora_router.tracing import trace_id

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)  # to ask for, before a line is made that nobody reads

_SATURATED: Final = 0.8  # of what may wait
_SAY_AGAIN_S: Final = 10.0


class LaneLog:
    """Of one lane."""

    def __init__(self) -> None:
        self._told_at = -math.inf

    def queued(self, model_id: str, ticket: Ticket) -> None:
        if _level.isEnabledFor(logging.DEBUG):
            _tell("request queued", model_id, ticket)

    def started(self, model_id: str, batch: list[Ticket]) -> None:
        if _level.isEnabledFor(logging.DEBUG):
            for ticket in batch:
                _tell("request started", model_id, ticket)

    def filling(self, model_id: str, waiting: int, most: int, now: float) -> None:
        """At most once in a while."""
        if waiting >= _SATURATED * most and now - self._told_at >= _SAY_AGAIN_S:
            self._told_at = now
            log.warning("queue is nearly full", model=model_id, queued=waiting, max_length=most)


def _tell(event: str, model_id: str, ticket: Ticket) -> None:
    call, worker = ticket.call, ticket.replica.worker_id if ticket.replica else None
    trace = trace_id(call.traceparent)
    log.debug(event, model=model_id, request_id=call.request_id, trace_id=trace, worker=worker)
