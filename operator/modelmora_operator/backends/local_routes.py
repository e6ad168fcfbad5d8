"""The routes of one machine: as the files say, with the status that follows from the deployments."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from modelmora.control import Routes
from modelmora.control.local import LocalControl
from modelmora.spec import ModelRoute
from modelmora.watching import Cell
from modelmora_operator.conditions import READY
from modelmora_operator.routes import ROLLED_BACK, statuses

log = structlog.get_logger(__name__)


class LocalRoutes:
    """Owns the cell of the routes. Used from one event loop."""

    def __init__(self, control: LocalControl, *, clock: Callable[[], float] = time.time) -> None:
        self._control = control
        self._clock = clock
        self._written: Routes = {}

    def replace(self, routes: Routes) -> None:
        """These are all there are from now on; what was reported of a route stays with it."""
        self._written = routes
        self._publish()

    async def run(self) -> None:
        """Follows the deployments, and what the router rolls back, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self._control.deployments), name="deployments of routes")
            tasks.create_task(self._follow(self._control.trips), name="trips")

    async def _follow(self, cell: Cell[Any]) -> None:
        async for _ in cell.watch():
            self._publish()

    def _publish(self) -> None:
        before = self._control.routes.value or {}
        routes = {}
        for key, route in self._written.items():
            known = before.get(key)
            same = known is not None and known.metadata.uid == route.metadata.uid
            routes[key] = route.model_copy(update={"status": known.status}) if known and same else route
        found = statuses(routes, self._control.deployments.value or {}, self._control.trips.value or {}, self._clock())
        now = {key: route.model_copy(update={"status": found[key]}) for key, route in routes.items()}
        for key, route in now.items():
            _tell(before.get(key), route)
        self._control.routes.set(now)


def _tell(before: ModelRoute | None, now: ModelRoute) -> None:
    """Logs a new verdict, once."""
    was, ready = _ready(before) if before else None, _ready(now)
    if ready and was != ready:
        status, reason, message = ready
        told = log.info if status == "True" and reason != ROLLED_BACK else log.warning
        told("route", model=now.spec.model_id, route=now.metadata.name, ready=status, reason=reason, message=message)


def _ready(route: ModelRoute) -> tuple[str, str, str] | None:
    found = next((one for one in route.status.conditions if one.type == READY), None)
    return (str(found.status), found.reason, found.message) if found else None
