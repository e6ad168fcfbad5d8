"""What the kubelet and Prometheus ask the operator: /healthz, /readyz, /metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from modelmora.errors import AddressInUse
from modelmora_operator import health
from modelmora_operator.health import Pulse

_UNWELL = 503
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def answering(port: int, pulse: Callable[[], Pulse], metrics: Callable[[], bytes]) -> AsyncIterator[None]:
    """Until the block ends, at every address.

    Raises:
        AddressInUse: something else listens at that port.
    """
    runner = web.AppRunner(_application(pulse, metrics), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, None, port).start()
        except OSError as error:
            remedy = "stop what listens there, or set another port"
            raise AddressInUse(f"the port {port} cannot be used: {error}", field="port", remedy=remedy) from error
        yield
    finally:
        await runner.cleanup()


def _application(pulse: Callable[[], Pulse], metrics: Callable[[], bytes]) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        return _answer(pulse(), health.alive)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(pulse(), health.ready)

    async def scraped(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": _PROMETHEUS})

    application = web.Application()
    routes = (("/healthz", healthz), ("/readyz", readyz), ("/metrics", scraped))
    application.add_routes([web.get(path, handler) for path, handler in routes])
    return application


def _answer(pulse: Pulse, good: Callable[[Pulse], bool]) -> web.Response:
    return web.Response(text=health.told(pulse), status=200 if good(pulse) else _UNWELL)
