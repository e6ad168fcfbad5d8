"""A Kubernetes API that has bad days: a forwarder before the real API server, at a test's command.

It speaks plain HTTP on loopback to programs under test, and to the API server with the rights of a kubeconfig. Its own
kubeconfig is a file for whatever is to go through it. It runs in a thread of its own, so that tests may block.

    with api_proxy(kubeconfig, tmp_path) as proxy:
        ...                   # a program runs with proxy.kubeconfig
        proxy.inject_gone()   # every watch ends with 410 Gone
"""

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

_REMEMBERED: Final = 100_000
_GOODBYE_S: Final = 0.1
_START_S: Final = 20.0
_LARGEST: Final = 64 * 1024 * 1024
_LONGEST_LINE: Final = 2**22  # of a watch: one object


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came through."""

    method: str
    path: str
    watch: bool

    @property
    def writes(self) -> bool:
        return self.method not in {"GET", "HEAD", "OPTIONS"}


class ApiProxy:
    """The forwarder. Every method may be called from any thread, and returns once it is so."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.port = 0
        self._upstream = kubeconfig
        self._seen: deque[Seen] = deque(maxlen=_REMEMBERED)
        self._denied: dict[tuple[str, str], tuple[int, str]] = {}
        self._ready: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._moving = asyncio.Event()
        self._gone: dict[asyncio.Event, str] = {}  # of every running watch, and its path
        self._silenced: set[asyncio.Event] = set()  # running watches that say nothing more
        self._refusing = False
        self._ended = asyncio.Event()

    # ------------------------------------------------------------------------------------------------ for the test

    @property
    def seen(self) -> list[Seen]:
        """What came through so far."""
        return list(self._seen)

    @property
    def watches(self) -> int:
        """How many watches run now."""
        return len(self._gone)

    def inject_gone(self, path: str = "") -> None:
        """Every watch whose path holds this ends with the event ERROR 410 Expired."""

        def expire() -> None:
            for gone, watched in self._gone.items():
                if path in watched:
                    gone.set()

        self._do(expire)

    def silence(self) -> None:
        """The watches that run say nothing more and do not end, as if their network were cut; new ones are well."""
        self._do(lambda: self._silenced.update(self._gone))

    def refuse(self) -> None:
        """Every connection breaks, and none is taken."""
        self._do(self._begin_refusing)

    def stall(self) -> None:
        """Nothing moves: connections are taken and held, nothing is answered, nothing ends."""
        self._do(self._moving.clear)

    def resume(self) -> None:
        """All is well again."""
        self._do(self._end_refusing)

    def cut(self) -> None:
        """Every connection breaks; new ones are taken."""
        self._do(self._cut)

    def deny(self, method: str, path: str, *, status: int = 403, message: str = "denied by the test") -> None:
        """Such requests are answered by an error from now on; `path` is any part of one."""
        self._do(lambda: self._denied.update({(method, path): (status, message)}))

    def allow(self) -> None:
        """Nothing is denied any more."""
        self._do(self._denied.clear)

    def _do(self, action: Any) -> None:
        async def call() -> None:
            outcome = action()
            if asyncio.iscoroutine(outcome):
                await outcome

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(_START_S)

    # ------------------------------------------------------------------------------------------------ the thread

    def run(self) -> None:
        """The thread's program."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - told to the test, which waits for it
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self._loop.close()

    def until_ready(self) -> None:
        self._ready.result(_START_S)

    def end(self) -> None:
        """Closes everything."""
        with suppress(RuntimeError):  # the thread never came so far
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self) -> None:
        configuration = Configuration()
        await kubernetes_config.load_kube_config(config_file=str(self._upstream), client_configuration=configuration)
        self._server = configuration.host
        token = await configuration.get_api_key_with_prefix("BearerToken")
        self._credentials = {"Authorization": token} if token else {}
        tls = RESTClientObject(configuration).ssl_context
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_LONGEST_LINE)
        self._moving.set()
        async with self._session, self._listening():
            self._write_kubeconfig()
            self._ready.set_result(None)
            await self._ended.wait()
            self._cut()
        await asyncio.sleep(_GOODBYE_S)  # TLS connections that were just closed take leave of the other side

    @asynccontextmanager
    async def _listening(self) -> Any:
        application = web.Application(client_max_size=_LARGEST)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await self._listen()
        try:
            yield
        finally:
            await self._runner.cleanup()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def _write_kubeconfig(self) -> None:
        named = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        self.kubeconfig.write_text(yaml.safe_dump(named), encoding="utf-8")

    # ------------------------------------------------------------------------------------------------ its bad days

    async def _begin_refusing(self) -> None:
        if not self._refusing:
            self._refusing = True
            await self._site.stop()
        self._cut()

    async def _end_refusing(self) -> None:
        self._moving.set()
        if self._refusing:
            self._refusing = False
            await self._listen()

    def _cut(self) -> None:
        assert self._runner.server
        for connection in self._runner.server.connections:
            if connection.transport:
                connection.transport.abort()

    # ------------------------------------------------------------------------------------------------ forwarding

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in {"true", "1"}
        self._seen.append(Seen(request.method, request.path, watch))
        body = await request.read()
        await self._moving.wait()
        if refusal := self._refusal(request):
            return refusal
        response = web.StreamResponse()
        with suppress(aiohttp.ClientError, ConnectionError):  # either side has gone
            async with self._asked(request, body) as upstream:
                response.set_status(upstream.status, upstream.reason)
                response.content_type = upstream.content_type
                await response.prepare(request)
                await (self._watch if watch else self._copy)(request.path, upstream, response)
                await response.write_eof()
                return response
        if request.transport:
            request.transport.abort()
        return response

    def _asked(self, request: web.Request, body: bytes) -> Any:
        kept = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        headers = {**kept, **self._credentials, "Accept-Encoding": "identity"}
        url = URL(self._server + request.raw_path, encoded=True)
        return self._session.request(request.method, url, headers=headers, data=body or None)

    async def _copy(self, _: str, upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for chunk in upstream.content.iter_any():
            await self._moving.wait()
            await response.write(chunk)

    async def _watch(self, path: str, upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        gone = asyncio.Event()
        self._gone[gone] = path
        tasks = [asyncio.ensure_future(self._lines(upstream, response, gone)), asyncio.ensure_future(gone.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if gone.is_set():
                await response.write(_GONE)
        finally:
            del self._gone[gone]
            self._silenced.discard(gone)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _lines(self, upstream: aiohttp.ClientResponse, response: web.StreamResponse, gone: asyncio.Event) -> None:
        async for line in upstream.content:
            await self._moving.wait()
            if gone not in self._silenced:
                await response.write(line)
        if gone in self._silenced:
            await asyncio.Event().wait()  # until the client has had enough

    def _refusal(self, request: web.Request) -> web.Response | None:
        for (method, path), (status, message) in self._denied.items():
            if method == request.method and path in request.path:
                return web.json_response(_status(status, message), status=status)
        return None


def _status(code: int, message: str) -> dict[str, Any]:
    reason = {403: "Forbidden", 410: "Expired", 429: "TooManyRequests", 503: "ServiceUnavailable"}.get(code, "Unknown")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


_GONE: Final = (
    json.dumps({"type": "ERROR", "object": _status(410, "too old resource version, says the test")}).encode() + b"\n"
)


@contextmanager
def api_proxy(kubeconfig: Path, folder: Path) -> Iterator[ApiProxy]:
    """A forwarder to the API server of the kubeconfig until the block ends; its own kubeconfig lies in the folder."""
    proxy = ApiProxy(kubeconfig, folder)
    thread = threading.Thread(target=proxy.run, name="api proxy")
    thread.start()
    try:
        proxy.until_ready()
        yield proxy
    finally:
        proxy.end()
        thread.join(_START_S)
