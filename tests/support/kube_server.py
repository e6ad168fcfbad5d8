"""As much of an API server as a router asks for: rights, lists, watches, and its Lease. In a thread of its own."""

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import web

from modelmora.kube import names
from modelmora.spec import ModelDeployment

_START_S: Final = 20.0


class KubeServer:
    """What is stored may be read and written from any thread; a watch tells of what is put while it runs."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "fake.kubeconfig"
        self.leases: dict[str, dict[str, Any]] = {}
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}  # by plural and name
        self._versions = itertools.count(1)
        self._watches: dict[asyncio.Queue[dict[str, Any]], str] = {}
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._started = threading.Event()

    # ------------------------------------------------------------------------------------------------ for the test

    def put_deployment(self, model: ModelDeployment) -> None:
        self._put("modeldeployments", model.manifest())

    def put_worker(self, name: str, deployment: str, address: str) -> None:
        """A worker's pod that has this address."""
        labels = {names.COMPONENT: names.WORKER, names.DEPLOYMENT: deployment}
        status = {"phase": "Running", "podIP": address}
        self._put("pods", {"metadata": {"name": name, "namespace": "default", "labels": labels}, "status": status})

    def _put(self, plural: str, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        metadata = {"uid": f"uid-{name}", **body["metadata"], "resourceVersion": str(next(self._versions))}
        self._objects[plural, name] = stored = {**body, "metadata": metadata}
        self._loop.call_soon_threadsafe(self._tell, plural, stored)

    # ------------------------------------------------------------------------------------------------ the server

    def _tell(self, plural: str, stored: dict[str, Any]) -> None:
        for queue, watched in self._watches.items():
            if watched == plural:
                queue.put_nowait({"type": "MODIFIED", "object": stored})

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/selfsubjectaccessreviews"):
            return web.json_response({"status": {"allowed": True}}, status=201)
        if "/leases/" in request.path:
            return await self._lease(request)
        plural = request.path.rsplit("/", 1)[-1]
        if request.query.get("watch"):
            return await self._watch(request, plural)
        items = [item for (kind, _), item in self._objects.items() if kind == plural]
        return web.json_response({"metadata": {"resourceVersion": str(next(self._versions))}, "items": items})

    async def _lease(self, request: web.BaseRequest) -> web.Response:
        name = request.path.rsplit("/", 1)[-1]
        if request.method == "DELETE":
            return web.json_response(self.leases.pop(name, {}))
        self.leases[name] = json.loads(await request.read())
        return web.json_response(self.leases[name])

    async def _watch(self, request: web.BaseRequest, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watches[queue] = plural
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        except ConnectionError:  # who watched has ended
            return response
        finally:
            del self._watches[queue]

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = web.Server(self._answer)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._write_kubeconfig(runner.addresses[0][1])
        self._started.set()
        await self._ended.wait()
        await runner.cleanup()

    def _write_kubeconfig(self, port: int) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "it", "user": {"token": "none"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "current-context": "it",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def wait(self) -> None:
        assert self._started.wait(_START_S), "the server did not start"

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)


@contextmanager
def kube_server(folder: Path) -> Iterator[KubeServer]:
    """A server on a free port, with nothing in it."""
    server = KubeServer(folder)
    thread = threading.Thread(target=server.run, name="fake API server")
    thread.start()
    try:
        server.wait()
        yield server
    finally:
        server.end()
        thread.join(_START_S)
