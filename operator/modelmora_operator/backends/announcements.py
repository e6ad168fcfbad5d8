"""Kubernetes Events about deployments and routes: what a person must know, each thing once.

They are written beside the work, never in its way: what cannot be written soon is dropped, the status says it all.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias
from uuid import uuid4

import structlog

from modelmora.errors import ServerUnavailable
from modelmora.kube import names
from modelmora.kube.api import EVENTS, KubeError, Object
from modelmora.spec import ModelDeployment, ModelRoute
from modelmora_operator.backends.writes import Writes
from modelmora_operator.news import News

_WAITING: Final = 1000
_SAME_AGAIN_S: Final = 600.0
_LONGEST: Final = 1024  # what the API server takes

Subject: TypeAlias = ModelDeployment | ModelRoute

log = structlog.get_logger(__name__)


class Announcements:
    """`run` writes what is announced until it is cancelled."""

    def __init__(self, writes: Writes, *, clock: Callable[[], float] = time.time) -> None:
        self._writes = writes
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[Subject, News]] = asyncio.Queue(_WAITING)
        self._told: dict[tuple[str, News], float] = {}

    def announce(self, subject: Subject, news: News) -> None:
        """Soon, unless the same was told a short while ago."""
        now, one = self._clock(), (subject.metadata.uid, news)
        self._told = {other: at for other, at in self._told.items() if now - at < _SAME_AGAIN_S}
        if one in self._told or self._waiting.full():
            return
        self._told[one] = now
        self._waiting.put_nowait((subject, news))

    async def run(self) -> None:
        while True:
            subject, news = await self._waiting.get()
            try:
                body = event(subject, news, self._clock())
                await self._writes.create(EVENTS, subject.metadata.namespace, body)
            except (KubeError, ServerUnavailable) as error:
                log.debug("an event could not be written", about=subject.metadata.name, cause=str(error))


def event(subject: Subject, news: News, now: float) -> Object:
    """The object."""
    metadata = subject.metadata
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata.name}.{uuid4().hex[:16]}", "namespace": metadata.namespace},
        "involvedObject": {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "type": news.type,
        "reason": news.reason,
        "message": news.message[:_LONGEST],
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "reportingInstance": names.MANAGER,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
