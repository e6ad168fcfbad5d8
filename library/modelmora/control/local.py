"""Operator and router in one process: each publishes a value, the other watches it."""

from collections.abc import AsyncIterator

from modelmora.control import Demands, Deployments, Routes, Trips, Workers
from modelmora.watching import Cell


class LocalControl:
    """`modelmora.control.Control` within one process; the operator's side are the cells."""

    def __init__(self) -> None:
        self.deployments: Cell[Deployments] = Cell()
        self.routes: Cell[Routes] = Cell()
        self.routes.set({})  # an operator that knows of none need not say so
        self.workers: Cell[Workers] = Cell()
        self.demands: Cell[Demands] = Cell()
        self.trips: Cell[Trips] = Cell()

    def watch_deployments(self) -> AsyncIterator[Deployments]:
        return self.deployments.watch()

    def watch_routes(self) -> AsyncIterator[Routes]:
        return self.routes.watch()

    def watch_workers(self) -> AsyncIterator[Workers]:
        return self.workers.watch()

    def blind(self, _: str) -> str:
        return ""

    async def publish_demand(self, demands: Demands) -> None:
        self.demands.set(dict(demands))

    async def publish_trips(self, trips: Trips) -> None:
        self.trips.set(dict(trips))
