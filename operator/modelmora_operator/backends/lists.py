"""Authoritative lists of our three kinds: at the start and every few minutes, of Leases every few seconds.

They are read by a client of our own, beside the watches: what a watch lost is mended here, and what is wrong with the
API is noticed here and said in words. A Lease is judged by these reads alone.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from modelmora.errors import ServerUnavailable
from modelmora.kube.api import DEPLOYMENTS, FORBIDDEN, LEASES, NOT_FOUND, PODS, Kube, KubeError, Listed, Resource
from modelmora.watching import Cell
from modelmora_operator.backends import refusals, router_leases
from modelmora_operator.backends.versions import number_of
from modelmora_operator.backends.view import ClusterView, selector_of

Places: TypeAlias = tuple[str | None, ...]  # namespaces; None: all of them

_AGAIN_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_REFUSED_S: Final = 15.0  # a right may come back
_DEFINITION_LOST_S: Final = 30.0  # so long must it be missing, before its objects count as deleted with it

log = structlog.get_logger(__name__)


@dataclass
class Reading:
    """How the last reads of one kind went. Times are monotonic."""

    resource: Resource
    read_at: float | None = None
    unreachable_since: float | None = None
    problem: str = ""  # in words; an API that cannot be reached is none
    missing_since: float | None = field(default=None)  # the kind itself


class Lists:
    """Feeds the view. `run` never ends."""

    def __init__(
        self,
        kube: Kube,
        view: ClusterView,
        *,
        home: str,
        namespaces: Sequence[str] = (),
        resync_s: float = 120.0,
        poll_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._view = view
        self._home = home
        self._places: Places = tuple(namespaces) or (None,)
        self._resync_s = resync_s
        self._poll_s = poll_s
        self._clock = clock
        self.readings = {resource: Reading(resource) for resource in (DEPLOYMENTS, PODS, LEASES)}
        self.readable: Cell[Places] = Cell()  # none while the API server does not know ModelDeployments
        self.mended = 0  # objects that no watch had told of
        self._refused: dict[Resource, frozenset[str]] = {}  # namespaces, of each kind that was listed last time
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync(), name="operator-lists")
            tasks.create_task(self._poll_leases(), name="operator-leases")

    def hurry(self) -> None:
        """The next lists are due: a watch broke, and its reason may be one that only lists can tell."""
        self._hurry.set()

    async def _resync(self) -> None:
        attempt = 0
        while True:
            self._hurry.clear()
            good = all([await self.read(DEPLOYMENTS), await self.read(PODS)])
            if good and self.readings[LEASES].read_at is not None:
                self._view.synced.set()
            attempt = 0 if good else attempt + 1
            if attempt:
                await asyncio.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S)) - 1])
            else:
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._pause_s())

    def _pause_s(self) -> float:
        if not self._view.synced.is_set():
            return _AGAIN_S[0]
        refused = any(reading.problem for reading in self.readings.values())
        return min(self._resync_s, _REFUSED_S) if refused else self._resync_s

    async def _poll_leases(self) -> None:
        while True:
            if not await self.read(LEASES):
                self._view.set_routers(router_leases.unread(self._view.routers))
            await asyncio.sleep(self._poll_s)

    async def read(self, resource: Resource) -> bool:
        """Once, all of one kind; False: it could not be read, `readings` says why."""
        reading = self.readings[resource]
        try:
            problem = await self._take(resource)
        except ServerUnavailable as error:
            if reading.unreachable_since is None:
                log.warning("the API cannot be reached", resource=resource.plural, cause=str(error))
            reading.unreachable_since = reading.unreachable_since or self._clock()
            reading.missing_since = None  # nobody knows whether it was missing all the time
            return False
        except KubeError as error:
            reading.unreachable_since = None
            self._say(reading, problem_of(resource, error))
            self._definition_is_missing(resource, error)
            return False
        if (reading.problem and not problem) or reading.unreachable_since is not None:
            log.info("lists again", resource=resource.plural)
        self._say(reading, problem)
        reading.read_at, reading.unreachable_since, reading.missing_since = self._clock(), None, None
        return True

    def _say(self, reading: Reading, problem: str) -> None:
        if problem and problem != reading.problem:
            log.warning("cannot list", resource=reading.resource.plural, problem=problem)
        reading.problem = problem

    async def _take(self, resource: Resource) -> str:
        """All of one kind; the answer is what is wrong in some of several namespaces, which disturbs no other."""
        if resource is LEASES:
            listed = await self._list(LEASES, self._home)
            leases = {lease["metadata"]["name"]: lease for lease in listed.items}
            version = number_of(listed.resource_version)
            self._view.set_routers(router_leases.read(self._view.routers, leases, self._clock(), version))
            return ""
        refused: dict[str, KubeError] = {}
        for place in self._places:
            try:
                await self._take_from(resource, place)
            except KubeError as error:
                if error.status != FORBIDDEN or place is None:
                    raise
                refused[place] = error
                self._view.withdraw(place)
        self._refused[resource] = frozenset(refused)
        self._open_the_others(resource)
        return "; ".join(problem_of(resource, error) for error in refused.values())

    def _open_the_others(self, resource: Resource) -> None:
        """Namespaces of which both kinds can be read: pods without their deployments would look like orphans."""
        refused = frozenset[str]().union(*self._refused.values())
        if DEPLOYMENTS in self._refused:
            self.readable.set(tuple(place for place in self._places if place not in refused))
        if resource is PODS:  # they are read last: only now is all of a namespace known again
            self._view.open_all_but(refused)

    async def _take_from(self, resource: Resource, place: str | None) -> None:
        news = self._view.listed(resource, place, await self._list(resource, place))
        if self._view.synced.is_set():
            self.mended += news

    async def _list(self, resource: Resource, place: str | None) -> Listed:
        return await self._kube.list(resource, place, selector=selector_of(resource))

    def _definition_is_missing(self, resource: Resource, error: KubeError) -> None:
        """With a definition all its objects go; it must be gone for a while, not only while a server starts."""
        reading = self.readings[resource]
        if resource is not DEPLOYMENTS or error.status != NOT_FOUND:
            reading.missing_since = None
            return
        self.readable.set(())
        self._refused.pop(DEPLOYMENTS, None)
        reading.missing_since = reading.missing_since or self._clock()
        if self._view.synced.is_set() and self._clock() - reading.missing_since > _DEFINITION_LOST_S:
            self._view.deployments.clear()


def problem_of(resource: Resource, error: KubeError) -> str:
    """What keeps us from reading a kind, and what to do."""
    if resource is DEPLOYMENTS and error.status == NOT_FOUND:
        return "the API server does not know ModelDeployments: apply the definitions in the chart's folder crds/"
    if right := refusals.missing_right(error):
        return f"{right}: give it by a Role, as the chart does ({error.message})"
    return f"{resource.plural} cannot be listed: {error.message}"
