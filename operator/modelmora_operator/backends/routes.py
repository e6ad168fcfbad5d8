"""The routes of a cluster: followed, and told what comes of them in their status.

A route has no workers, so it needs none of the operator's queue: whenever a route or a deployment changes, or a router
rolls something back, the status of all routes is derived anew, and those that say something new are written, one after
the other.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from modelmora.control import Key
from modelmora.control.kubernetes import route_reader
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import CONFLICT, NOT_FOUND, ROUTES, Kube, KubeError, Object
from modelmora.kube.following import Sight, State, follow_all
from modelmora.spec import ModelDeployment, ModelRoute, ModelRouteStatus
from modelmora.spec.route_effect import rollback_words
from modelmora_operator.backends.announcements import Announcements
from modelmora_operator.backends.lists import Reading, problem_of
from modelmora_operator.backends.versions import version_of
from modelmora_operator.backends.view import ClusterView
from modelmora_operator.backends.writes import Writes
from modelmora_operator.news import WARNING, News
from modelmora_operator.routes import ROLLED_BACK, statuses

_TOGETHER_S: Final = 0.1  # changes come in crowds: at the start, and when a model wakes
_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0)
_WRITE_S: Final = 10.0

log = structlog.get_logger(__name__)


class RouteStatuses:
    """Runs until it is cancelled; does nothing before the view is complete."""

    def __init__(
        self,
        kube: Kube,
        writes: Writes,
        view: ClusterView,
        namespaces: Sequence[str] = (),
        *,
        announcements: Announcements,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._writes = writes
        self._announcements = announcements
        self._view = view
        self._namespaces = namespaces
        self._clock = clock
        self._state: State = {}
        self._sight = Sight()
        self._answers: dict[Key, Object] = {}  # to our own writes: a watch may be late
        self._reader = route_reader()
        self._changed = asyncio.Event()

    @property
    def reading(self) -> Reading:
        """How the routes are seen; as of the namespace that was heard of last."""
        found = Reading(ROUTES, min(self._sight.heard_at.values(), default=None))
        for trouble in self._sight.troubles.values():
            if isinstance(trouble, KubeError):
                found.problem = problem_of(ROUTES, trouble)
            else:
                found.unreachable_since = found.read_at
        return found

    async def run(self) -> None:
        await self._view.synced.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="routes")
            tasks.create_task(self._follow_deployments(), name="deployments of routes")
            tasks.create_task(self._follow_trips(), name="trips of routers")
            tasks.create_task(self._write_again(), name="status of routes")

    async def _follow(self) -> None:
        sight = self._sight
        async for state in follow_all(self._kube, ROUTES, self._namespaces, optional=True, sight=sight):
            self._state = state
            self._changed.set()

    async def _follow_deployments(self) -> None:
        async for _ in self._view.deployment_changes.watch():
            self._changed.set()

    async def _follow_trips(self) -> None:
        async for _ in self._view.trips.watch():
            self._changed.set()

    async def _write_again(self) -> None:
        attempt = 0
        while True:
            await self._changed.wait()
            await asyncio.sleep(_TOGETHER_S)
            self._changed.clear()
            if await self.write():
                attempt = 0
            else:
                await asyncio.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
                attempt += 1
                self._changed.set()

    async def write(self) -> bool:
        """Writes every status that says something new; False: one could not be written."""
        routes = self._routes()
        found = statuses(routes, self._deployments(), self._view.trips.value or {}, self._clock())
        news = [(routes[key], status) for key, status in found.items() if status != routes[key].status]
        return all([await self._write(route, status) for route, status in news])

    def take(self, state: State) -> None:
        """These are the routes that there are."""
        self._state = state

    def _routes(self) -> dict[Key, ModelRoute]:
        """As they were told last, by the watch or by an answer, whichever is newer."""
        for key, answer in list(self._answers.items()):
            told = self._state.get((key.namespace, key.name))
            if told is None or version_of(told) >= version_of(answer):
                del self._answers[key]
        newest = dict(self._state) | {(key.namespace, key.name): answer for key, answer in self._answers.items()}
        open_to_us = {name: item for name, item in newest.items() if not self._view.closed(name[0])}
        return {key: route for key, route in self._reader.read(open_to_us).items() if _lives(route)}

    def _deployments(self) -> dict[Key, ModelDeployment]:
        found = ((Key(*name), self._view.deployments[name]) for name in self._view.deployments)
        return {key: deployment for key, deployment in found if isinstance(deployment, ModelDeployment)}

    async def _write(self, route: ModelRoute, status: ModelRouteStatus) -> bool:
        metadata = route.metadata
        body = {"metadata": {"uid": metadata.uid}, "status": status.manifest()}
        try:
            async with asyncio.timeout(_WRITE_S):
                answer = await self._writes.apply_status(ROUTES, metadata.namespace, metadata.name, body)
        except KubeError as error:
            if error.status == NOT_FOUND or (error.status == CONFLICT and "uid" in error.message.lower()):
                return True  # gone, or another one of its name, of which the watch will tell
            log.warning("the status of a route was not written", route=metadata.name, why=error.message)
            return False
        except (ServerUnavailable, TimeoutError) as error:
            log.warning("the status of a route was not written", route=metadata.name, why=str(error))
            return False
        self._answers[Key(metadata.namespace, metadata.name)] = answer
        self._announce(route, status)
        return True

    def _announce(self, before: ModelRoute, now: ModelRouteStatus) -> None:
        for one in now.rolled_back:
            if one not in before.status.rolled_back:
                self._announcements.announce(before, News(WARNING, ROLLED_BACK, rollback_words(one)))


def _lives(route: ModelRoute) -> bool:
    return route.metadata.deletion_timestamp is None
