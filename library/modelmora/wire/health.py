"""grpc.health.v1, for probes, for load balancers, and for the router that waits for a worker.

Our own, because the servicer of grpcio-health-checking forgets every other watcher of a service as soon as one leaves.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.watching import Cell

Response: TypeAlias = health_pb2.HealthCheckResponse
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """SERVING or NOT_SERVING, for the whole program and for these services alike; at first NOT_SERVING.

    Who only wants to know whether the program lives asks for one of the services in `alive`: SERVING until its end.
    """

    def __init__(self, services: Iterable[str], *, alive: Iterable[str] = ()) -> None:
        self._state: Cell[Response] = Cell()
        self._alive: Cell[Response] = Cell()
        self._cells = dict.fromkeys({"", *services}, self._state) | dict.fromkeys(alive, self._alive)
        self._alive.set(Response(status=Response.SERVING))
        self.set(serving=False)

    @property
    def services(self) -> frozenset[str]:
        """All that can be asked for."""
        return frozenset(self._cells)

    def set(self, *, serving: bool) -> None:
        """Tells everyone who asks or watches."""
        self._state.set(Response(status=Response.SERVING if serving else Response.NOT_SERVING))

    def end(self) -> None:
        """NOT_SERVING, and the end of every watch."""
        for cell in (self._state, self._alive):
            cell.set(Response(status=Response.NOT_SERVING))
            cell.close()

    async def Check(  # noqa: N802 - the name in the protocol
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> Response:
        if request.service not in self._cells:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:100]!r}")
        return self._cells.get(request.service, self._state).value or Response()

    async def Watch(  # noqa: N802 - the name in the protocol
        self, request: health_pb2.HealthCheckRequest, _: _Context
    ) -> AsyncIterator[Response]:
        known = request.service in self._cells
        if not known:
            # As the protocol has it: a service may be added later, so the watch goes on.
            yield Response(status=Response.SERVICE_UNKNOWN)
        async for state in self._cells.get(request.service, self._state).watch():
            if known:
                yield state
