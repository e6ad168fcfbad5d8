"""What the router processes on the same ports ask each other, over unix sockets: see `siblings`."""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelmora_router.dataplane import DataPlane
from modelmora_router.expositions import written
from modelmora_router.siblings import FAMILIES, READY


def application(plane: DataPlane) -> ASGIApp:
    """The ASGI application of one of the processes."""

    async def families(_: Request) -> Response:
        return Response(await plane.meters.written(written), media_type="application/json")

    async def ready(_: Request) -> Response:
        is_ready = all(state == "ready" for state in plane.components().values())
        return Response(status_code=HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    return Starlette(routes=[Route(FAMILIES, families), Route(READY, ready)])
